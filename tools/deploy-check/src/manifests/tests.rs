//! Every rule, once kept and once broken.

use super::*;

const GOOD: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: one, namespace: jobs}
spec:
  template:
    metadata: {labels: {app: one, app.kubernetes.io/part-of: jobs, app.kubernetes.io/component: service}}
    spec:
      automountServiceAccountToken: false
      securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
      terminationGracePeriodSeconds: 35
      containers:
        - name: one
          image: registry.example.com:5000/jobs/job-service:1
          ports: [{name: callback, containerPort: 8080}]
          envFrom: [{configMapRef: {name: settings}}, {secretRef: {name: jobs-mail}}]
          env: [{name: PGHOST, value: there}]
          readinessProbe: {}
          livenessProbe: {httpGet: {port: callback}}
          lifecycle: {preStop: {sleep: {seconds: 5}}}
          resources: {requests: {cpu: 1, memory: 1Mi}, limits: {memory: 1Mi}}
          securityContext:
            {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
---
apiVersion: v1
kind: Service
metadata: {name: one, namespace: jobs}
spec: {selector: {app: one}, ports: [{port: 8080, targetPort: callback}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: callbacks, namespace: jobs}
spec:
  podSelector:
    matchExpressions: [{key: app.kubernetes.io/component, operator: In, values: [service, server]}]
  ingress:
    - from: [{podSelector: {matchLabels: {app.kubernetes.io/component: function}}}]
      ports: [{port: callback}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: functions, namespace: jobs}
spec:
  podSelector: {matchLabels: {app.kubernetes.io/part-of: jobs, app.kubernetes.io/component: function}}
  ingress:
    - from: [{podSelector: {matchExpressions: [{key: app.kubernetes.io/component, operator: In, values: [worker, service]}]}}]
    - from: [{namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: In, values: [knative-serving, kourier-system]}]}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: jobs}
data:
  JOBS_SCHEMA: app_jobs
  JOBS_SUPPORTED: email:send_email
  JOBS_SHUTDOWN_GRACE: 30s
  PGHOST: db-rw
  KNATIVE_SERVICE_URL: http://one.jobs.svc.cluster.local:8080/path
  INTERNAL_GATEWAY_DEVELOPMENT_MAP: >-
    {"email:send_email": "http://fn.jobs.svc.cluster.local", "greet": "http://greet.jobs.svc.cluster.local",
    "shop": "http://shop.shop.svc.cluster.local", "bare": "http://nobody", "far": "https://example.com"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: greet, namespace: jobs}
data: {GREETING: hello}
---
apiVersion: postgresql.cnpg.io/v1
kind: Cluster
metadata: {name: db, namespace: jobs}
---
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: fn, namespace: jobs}
spec: {template: {metadata: {labels: {app.kubernetes.io/part-of: jobs, app.kubernetes.io/component: function}}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: greet, namespace: jobs}
spec:
  template:
    metadata: {labels: {app: greet, app.kubernetes.io/part-of: jobs, app.kubernetes.io/component: function}}
    spec:
      automountServiceAccountToken: false
      securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
      terminationGracePeriodSeconds: 1
      containers:
        - name: greet
          image: registry.example.com:5000/shop/greet:1
          ports: [{name: http, containerPort: 8080}]
          envFrom: [{configMapRef: {name: greet}}, {configMapRef: {name: elsewhere}}, {secretRef: {name: greet}}]
          env: [{name: LANGUAGE, value: en}]
          readinessProbe: {}
          livenessProbe: {}
          resources: {requests: {cpu: 1, memory: 1Mi}, limits: {memory: 1Mi}}
          securityContext:
            {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
---
apiVersion: v1
kind: Service
metadata: {name: greet, namespace: jobs}
spec: {selector: {app: greet}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: one, namespace: jobs}
spec:
  scaleTargetRef: {name: one}
  triggers:
    [{metadata: {host: db-rw.jobs.svc.cluster.local, query: "WHERE task_identifier IN ('email:send_email')"}}]
"#;

/// Of the policy of the callback port, what stands between `from: [` and `]`.
const FROM_FUNCTIONS: &str = "{podSelector: {matchLabels: {app.kubernetes.io/component: function}}}";

fn told(manifest: &str) -> String {
    problems(&read(manifest).unwrap(), &["jobs/job-service".to_owned()]).join("\n")
}

#[test]
fn every_rule_is_told_when_it_is_broken() {
    assert_eq!(told(GOOD), "");
    for (from, to, problem) in [
        ("runAsNonRoot: true", "runAsNonRoot: false", "Deployment one: may run as root"),
        ("readOnlyRootFilesystem: true", "x: true", "readOnlyRootFilesystem is not true"),
        ("[ALL]", "[NET_RAW]", "capabilities/drop is not"),
        ("livenessProbe: {", "x: {", "has no /livenessProbe"),
        ("limits: {memory: 1Mi}", "limits: {}", "has no /resources/limits/memory"),
        ("jobs/job-service:1", "jobs/two:1", "no Dockerfile makes the image"),
        ("name: PGHOST", "name: PGHOTS", "no program reads the variable PGHOTS"),
        ("JOBS_SCHEMA: ", "JOBS_SHEMA: ", "no program reads the variable JOBS_SHEMA"),
        ("configMapRef: {name: settings}", "configMapRef: {name: other}", "nobody makes the ConfigMap other"),
        ("name: jobs-mail", "name: jobs-male", "nobody makes the Secret jobs-male"),
        ("selector: {app: one}", "selector: {app: two}", "Service one: /spec/selector selects no pod"),
        ("scaleTargetRef: {name: one}", "scaleTargetRef: {name: two}", "there is no Deployment two"),
        ("automountServiceAccountToken: false", "x: 1", "gets a token"),
        ("name: settings, namespace: jobs", "name: settings", "ConfigMap settings: has no namespace"),
        (
            "livenessProbe: {httpGet: {port: callback",
            "livenessProbe: {httpGet: {port: cellback",
            "/livenessProbe asks the port cellback",
        ),
        ("targetPort: callback", "targetPort: cellback", "Service one: no pod that it selects has the port cellback"),
        (
            "[{port: callback}]",
            "[{port: cellback}]",
            "NetworkPolicy callbacks: no pod that it selects has the port cellback",
        ),
        ("PGHOST: db-rw", "PGHOST: dc-rw", "ConfigMap settings: there is no Service dc-rw"),
        ("http://one.jobs.svc", "http://two.jobs.svc", "there is no Service two"),
        ("http://one.jobs.svc", "http://one.jobz.svc", "one.jobz.svc.cluster.local is in another namespace than jobs"),
        ("local:8080/path", "local:8081/path", "the Service one has no port 8081"),
        ("local:8080/path", "local/path", "the Service one has no port 80"),
        ("http://fn.jobs.svc", "http://fm.jobs.svc", "there is no Service fm"),
        ("host: db-rw.jobs.svc", "host: dc-rw.jobs.svc", "ScaledObject one: there is no Service dc-rw"),
        ("JOBS_SUPPORTED: email", "JOBS_SUPPORTED: part,email", "its query does not count part"),
        // A function of somebody else's: what is known of it.
        ("shop/greet:1", "jobs/greet:1", "Deployment greet: no Dockerfile makes the image"),
        ("shop/greet:1", "jobs/greet:1", "Deployment greet: no program reads the variable LANGUAGE"),
        ("shop/greet:1", "jobs/greet:1", "ConfigMap greet: no program reads the variable GREETING"),
        ("shop/greet:1", "jobs/greet:1", "Deployment greet: nobody makes the Secret greet"),
        ("http://greet.jobs.svc.cluster.local", "http://greet:81", "the Service greet has no port 81"),
        ("\"far\": ", "\"far\", ", "INTERNAL_GATEWAY_DEVELOPMENT_MAP is no JSON object"),
        // Who reaches whom.
        ("values: [service, server]", "values: [servcie, server]", "Deployment one: no NetworkPolicy selects its pods"),
        ("values: [service, server]", "values: [servcie, server]", "any pod of elsewhere reaches its callback port"),
        (
            "operator: In, values: [service",
            "operator: NotIn, values: [service",
            "any pod of jobs reaches its callback port",
        ),
        (FROM_FUNCTIONS, "", "Deployment one: any pod of elsewhere reaches its callback port"),
        (FROM_FUNCTIONS, "{}", "Deployment one: any pod of jobs reaches its callback port"),
        (FROM_FUNCTIONS, "{namespaceSelector: {}}", "Deployment one: any pod of elsewhere reaches its callback port"),
        (FROM_FUNCTIONS, "{ipBlock: {cidr: 10.0.0.0/8}}", "Deployment one: any pod of jobs reaches its callback port"),
        (
            "from: [{podSelector: {matchLabels: {app.kubernetes.io/component: function}}}]",
            "from: [{podSelector: {matchLabels: {app.kubernetes.io/component: functoin}}}]",
            "Deployment one: Deployment greet does not reach its callback port",
        ),
        ("ports: [{port: callback}]", "ports: [{port: 81, endPort: 8079}]", "fn does not reach its callback port"),
        ("ports: [{port: callback}]", "ports: [{port: 8080, protocol: UDP}]", "fn does not reach its callback port"),
        ("name: callback, containerPort", "name: web, containerPort", "Deployment one: has no port callback"),
        ("component: service}", "component: sevrice}", "no callback server, or no function"),
        ("component: service}", "component: sevrice}", "Deployment greet: there is no worker to reach it"),
        (
            "values: [worker, service]",
            "values: [worker, sevrice]",
            "Deployment greet: Deployment one does not reach it",
        ),
        ("values: [worker, service]", "values: [worker, function]", "Deployment greet: Service fn reaches it"),
        ("values: [knative-serving,", "values: [knative-srving,", "Service fn: Knative's namespaces do not reach it"),
        (", kourier-system]", ", kuorier-system]", "Service fn: Knative's namespaces do not reach it"),
        (
            "namespaceSelector: {matchExpressions: [{",
            "namespaceSelector: {x: [{",
            "Service fn: any pod of elsewhere reaches",
        ),
        // Time to stop.
        ("PeriodSeconds: 35", "PeriodSeconds: 34", "terminationGracePeriodSeconds of 34 is less than preStop's 5 s"),
        ("terminationGracePeriodSeconds: 35", "x: 1", "terminationGracePeriodSeconds of 30 is less than"),
        ("JOBS_SHUTDOWN_GRACE: 30s", "JOBS_SHUTDOWN_GRACE: 1m", "JOBS_SHUTDOWN_GRACE's 60 s"),
        ("JOBS_SHUTDOWN_GRACE: 30s", "JOBS_SHUTDOWN_GRACE: long", "is not a duration"),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let told = told(&GOOD.replace(from, to));
        assert!(told.contains(problem), "{to}: {told}");
    }
}

#[test]
fn an_image_needs_a_registry_and_a_version() {
    let told = |image: &str| {
        unnamed_images(&read(&GOOD.replace("registry.example.com:5000/jobs/job-service:1", image)).unwrap())
    };
    assert_eq!(unnamed_images(&read(GOOD).unwrap()), Vec::<String>::new());
    for image in
        ["jobs/one:1", "jobs/one", "registry.example.com/jobs/one:latest", "registry.example.com:5000/jobs/one"]
    {
        assert_eq!(told(image).len(), 1, "{image}");
    }
}
