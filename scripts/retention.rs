//! The command `npm run retention`: checks `retention.toml`, and explains what it keeps.

use std::{env, fs, process::ExitCode};

use pierhead::{
    oci::{RepositoryName, Tag},
    platform::{Timestamp, seconds},
    retention::{Retention, TagTimes},
};

const USAGE: &str = "\
npm run retention -- check
npm run retention -- explain REPOSITORY TAG=AGE[,pulled=AGE]...

AGE is the time since the tag's push, or since its manifest's last pull, such as 90m, 12h or 7d. Name all tags of the
repository: which ones are the last depends on the others.";

/// The file with the document.
const FILE: &str = "retention.toml";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let answer = fs::read_to_string(FILE).map_err(|error| format!("{FILE}: {error}"));
    match answer.and_then(|text| run(&arguments, &text)) {
        Ok(answer) => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str], text: &str) -> Result<String, String> {
    let explained = match arguments {
        ["check"] => None,
        ["explain", repository, tags @ ..] => Some((*repository, tags)),
        _ => return Err(USAGE.to_owned()),
    };
    let retention = Retention::parse(text).map_err(|errors| {
        errors.iter().map(|error| format!("{FILE}: {error}")).collect::<Vec<_>>().join("\n")
    })?;
    match explained {
        None => Ok(format!("{FILE} is valid")),
        Some((repository, tags)) => explain(&retention, repository, tags),
    }
}

/// What becomes of the tags of a repository, and of its untagged manifests.
fn explain(retention: &Retention, repository: &str, tags: &[&str]) -> Result<String, String> {
    let name: RepositoryName = repository.parse().map_err(|error| format!("{error}"))?;
    // Any time that is later than the longest age.
    let now = Timestamp(u64::MAX / 2);
    let tags = tags.iter().map(|text| times(text, now)).collect::<Result<Vec<_>, _>>()?;
    let rules = retention.rules_of(&name);
    let verdicts = rules.decide_all(&tags, now);
    let mut lines: Vec<String> =
        tags.iter().zip(verdicts).map(|(TagTimes { tag, .. }, verdict)| format!("{tag} {verdict}")).collect();
    lines.push(match rules.untagged() {
        Some((line, span)) => {
            format!("untagged manifests are dropped after {span} by the rule in line {line}")
        }
        None => "untagged manifests are kept: no rule is about them".to_owned(),
    });
    if retention.dry_run {
        lines.push("but dry_run is true: runs only report".to_owned());
    }
    Ok(lines.join("\n"))
}

/// A tag with its times: `v1=7d` or `v1=7d,pulled=3h`.
fn times(text: &str, now: Timestamp) -> Result<TagTimes, String> {
    let invalid = || format!("{text:?} must be TAG=AGE or TAG=AGE,pulled=AGE, with ages such as 7d");
    let ago = |age: &str| seconds(age).map(|seconds| now.minus_seconds(seconds)).ok_or_else(invalid);
    let (tag, ages) = text.split_once('=').ok_or_else(invalid)?;
    let tag: Tag = tag.parse().map_err(|error| format!("{error}"))?;
    Ok(match ages.split_once(",pulled=") {
        Some((pushed, pulled)) => TagTimes { tag, pushed: ago(pushed)?, pulled: Some(ago(pulled)?) },
        None => TagTimes { tag, pushed: ago(ages)?, pulled: None },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a command as the documentation writes it.
    fn answer(command: &str, text: &str) -> String {
        let arguments: Vec<&str> = command.split_whitespace().collect();
        run(&arguments, text).unwrap_or_else(|error| error)
    }

    #[test]
    fn the_answers_in_the_documentation_are_those_of_the_command() {
        let documentation = include_str!("../docs/retention.md");
        let blocks = |language: &str| -> Vec<&str> {
            let start = format!("```{language}\n");
            documentation.split(&start).skip(1).map(|rest| rest.split("\n```").next().unwrap()).collect()
        };
        let document = blocks("toml")[0];
        let mut commands = 0;
        for block in blocks("console") {
            for command in block.split("$ npm run retention -- ").skip(1) {
                let (command, expected) = command.split_once('\n').unwrap();
                commands += 1;
                assert_eq!(answer(command, document), expected.trim_end(), "{command}");
            }
        }
        assert!(commands > 1, "{commands}");
    }

    #[test]
    fn the_examples_in_the_file_are_valid() {
        let file = include_str!("../retention.toml");
        assert_eq!(answer("check", file), "retention.toml is valid");
        let is_example = |line: &&str| line.starts_with("[[") || line.contains(" = ");
        let examples = file.lines().filter_map(|line| line.strip_prefix("# ")).filter(is_example);
        let text: String = examples.map(|line| format!("{line}\n")).collect();
        assert_eq!(answer("check", &text), "retention.toml is valid", "{text}");
        let explained = answer("explain tmp/x 1h=2h other=9d", &text);
        assert!(explained.contains("1h dropped by") && explained.contains("other kept: no rule covers it"));
        assert!(explained.ends_with("but dry_run is true: runs only report"), "{explained}");
    }

    #[test]
    fn wrong_arguments_and_documents_are_explained() {
        for command in ["", "explain", "check x", "tell a"] {
            assert_eq!(answer(command, ""), USAGE, "{command}");
        }
        for (command, expected) in [
            ("explain A", "\"A\" is not a repository name"),
            ("explain a -=1d", "\"-\" is not a tag"),
            ("explain a v1", "\"v1\" must be TAG=AGE"),
            ("explain a v1=soon", "\"v1=soon\" must be TAG=AGE"),
            ("explain a v1=1d,pulled=x", "\"v1=1d,pulled=x\" must be TAG=AGE"),
        ] {
            assert!(answer(command, "").starts_with(expected), "{command}");
        }
        assert_eq!(
            answer("check", "[[rule]]\nrepositories = [\"a\"]\nkeep_last = 0\n"),
            "retention.toml: line 3: keep_last must be a number from 1 to 1000"
        );
        assert_eq!(
            answer("explain a v1=1d", ""),
            "v1 kept: no rule covers it\nuntagged manifests are kept: no rule is about them"
        );
    }
}
