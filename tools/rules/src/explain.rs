//! A reason for every answer of a rival that is not ours.

use anyhow::{Context, Result, bail};
use job_testkit::env;
use serde_json::{Value, json};

use super::SHOWN;
use super::answer::{Answer, made_wrong};
use super::generate::Case;
use super::programs::{Program, Programs};
use super::report::Rival;

/// Another answer than ours.
struct Difference<'a> {
    case: &'a Case,
    /// What the rival was asked.
    question: &'a Value,
    ours: &'a Answer,
    theirs: &'a Answer,
}

impl Difference<'_> {
    /// The question why `answer` is what it is.
    fn why(&self, rival: &str, answer: &Answer) -> Value {
        let mut question = self.question.clone();
        question["rival"] = json!(rival);
        question["answer"] = answer.to_json();
        question
    }
}

/// Finds the reasons for every difference of a rival. `asked` are the numbers of the cases that it was asked, with the
/// questions.
pub(super) async fn explain(
    programs: &Programs,
    rival: &'static str,
    cases: &[Case],
    asked: &[(usize, Value)],
    ours: &[Answer],
    theirs: &[Answer],
) -> Result<Rival> {
    let all = asked.iter().zip(theirs).map(|((number, question), theirs)| Difference {
        case: &cases[*number],
        question,
        ours: &ours[*number],
        theirs,
    });
    let differences: Vec<Difference<'_>> = all.filter(|answer| !answer.ours.is_same_as(answer.theirs)).collect();
    let mut questions: Vec<Value> = differences.iter().map(|answer| answer.why(rival, answer.theirs)).collect();
    // What explains one answer must not explain another one.
    questions.extend(differences.iter().filter_map(|answer| {
        let wrong = made_wrong(answer.theirs, answer.ours)?;
        Some(answer.why(rival, &wrong))
    }));
    let answers = programs.ask(Program::Quirks, &questions).await?;
    let reasons = answers.into_iter().map(|mut answer| serde_json::from_value(answer["reasons"].take()));
    let reasons: Vec<Vec<String>> = reasons.collect::<Result<_, _>>().context("quirks.py gives no reasons")?;
    if reasons.len() != questions.len() {
        bail!("quirks.py was asked {} questions and gave {} answers", questions.len(), reasons.len());
    }
    let (reasons, of_wrong) = reasons.split_at(differences.len());

    all_have_one(rival, &differences, reasons)?;
    if let Some(at) = of_wrong.iter().position(|reasons| !reasons.is_empty()) {
        let (question, reasons) = (&questions[differences.len() + at], &of_wrong[at]);
        bail!("an answer that nobody gave is explained, by {}: {question}", reasons.join(", "));
    }
    examples_show_theirs(rival, cases, &differences, reasons)?;
    write(rival, &differences, reasons)?;
    Rival::new(rival, asked.len(), of_wrong.len(), reasons)
}

fn all_have_one(rival: &str, differences: &[Difference<'_>], reasons: &[Vec<String>]) -> Result<()> {
    let without: Vec<_> = differences.iter().zip(reasons).filter(|(_, reasons)| reasons.is_empty()).collect();
    for (Difference { case, ours, theirs, .. }, _) in without.iter().take(SHOWN) {
        println!("{}\n  as cron  {:?}\n  ours     {ours}\n  {rival:8} {theirs}", case.question, case.cron);
    }
    match without.len() {
        0 => Ok(()),
        count => bail!("{count} answer(s) of {rival} differ from ours, and nothing that is known explains them"),
    }
}

/// Every example of a reason shows it.
fn examples_show_theirs(
    rival: &str,
    cases: &[Case],
    differences: &[Difference<'_>],
    reasons: &[Vec<String>],
) -> Result<()> {
    let shown: Vec<(&str, &Value)> = differences
        .iter()
        .zip(reasons)
        .flat_map(|(answer, reasons)| reasons.iter().map(|reason| (reason.as_str(), &answer.case.question)))
        .collect();
    for (case, reason) in cases.iter().filter_map(|case| Some((case, case.shows?))) {
        let of_rival = reason.split_once(':').is_some_and(|(name, _)| name == rival);
        if of_rival && !shown.contains(&(reason, &case.question)) {
            bail!(
                "{} does not show {reason:?}: strike the example, and the reason when it has no other",
                case.question
            );
        }
    }
    Ok(())
}

/// Leaves all differences where they can be looked at.
fn write(rival: &str, differences: &[Difference<'_>], reasons: &[Vec<String>]) -> Result<()> {
    let lines = differences.iter().zip(reasons).map(|(answer, reasons)| {
        let (ours, theirs) = (answer.ours.to_json(), answer.theirs.to_json());
        let line = json!({ "question": answer.question, "ours": ours, "theirs": theirs, "reasons": reasons });
        format!("{line}\n")
    });
    let file = env::target_dir().join("rules").join(format!("{rival}.jsonl"));
    std::fs::write(&file, lines.collect::<String>()).with_context(|| format!("cannot write {}", file.display()))
}
