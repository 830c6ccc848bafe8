# Introspect the private API
curl -X POST http://localhost:3001/graphql \
  -H "Content-Type: application/json" \
  -H "Host: private.localhost" \
  -d '{"query": "{ __schema { queryType { fields { name } } } }"}'

# List databases
curl -X POST http://localhost:3001/graphql \
  -H "Content-Type: application/json" \
  -H "Host: private.localhost" \
  -d '{"query": "{ databases { nodes { id name } } }"}'

# List users
curl -X POST http://localhost:3001/graphql \
  -H "Content-Type: application/json" \
  -H "Host: private.localhost" \
  -d '{"query": "{ users { nodes { id username displayName } } }"}'
