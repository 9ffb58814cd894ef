//! The command `npm run policy`: checks `policy.toml`, and explains its decisions.

use std::{env, fmt::Write as _, fs, process::ExitCode};

use pierhead::{
    auth::{
        Access, Action, Anonymous, External, Key, KeyScope, Policy, Principal,
        policy::{Document, Reason, Source},
    },
    oci::{Glob, RepositoryName, Tag},
};
use toml::de::{DeTable, DeValue};

const USAGE: &str = "\
npm run policy -- check
npm run policy -- explain WHO ACTION [REPOSITORY]

WHO is one of
  ann                                        a user
  anonymous                                  a client without credentials
  key:deploy                                 a robot account
  github:repository=org/app,ref=refs/heads/main
                                             an issuer and the claims of a token
ACTION is pull, push or delete, with a REPOSITORY such as team/app or team/app:v1; or admin or metrics, without one.

The settings ANONYMOUS, DELETION and EXTERNAL_PRIVATE_ISSUERS are those of wrangler.toml, or of the environment.";

/// The file with the document.
const FILE: &str = "policy.toml";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = fs::read_to_string(FILE).map_err(|error| format!("{FILE}: {error}")).and_then(|document| {
        let wrangler =
            fs::read_to_string("wrangler.toml").map_err(|error| format!("wrangler.toml: {error}"))?;
        run(&arguments, &document, &|name| env::var(name).ok().or_else(|| variable(&wrangler, name)))
    });
    match result {
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

/// A variable of `wrangler.toml`.
fn variable(wrangler: &str, name: &str) -> Option<String> {
    let document = DeTable::parse(wrangler).ok()?;
    match document.get_ref().get("vars")?.get_ref() {
        DeValue::Table(vars) => vars.get(name)?.get_ref().as_str().map(str::to_owned),
        _ => None,
    }
}

fn run(arguments: &[&str], text: &str, setting: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let explained = match arguments {
        ["check"] => None,
        ["explain", who, action] => Some((*who, *action, None)),
        ["explain", who, action, repository] => Some((*who, *action, Some(*repository))),
        _ => return Err(USAGE.to_owned()),
    };
    let setting = |name| setting(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    let is_on = |name, default| match setting(name).as_deref() {
        None => Ok(default),
        Some("on") => Ok(true),
        Some("off") => Ok(false),
        Some(_) => Err(format!("{name} must be one of on, off")),
    };
    let anonymous: Anonymous = setting("ANONYMOUS").map_or(Ok(Anonymous::None), |value| {
        value.parse().map_err(|expected| format!("ANONYMOUS must be {expected}"))
    })?;
    let (deletion, private) = (is_on("DELETION", true)?, is_on("EXTERNAL_PRIVATE_ISSUERS", false)?);
    let lines = |errors: Vec<String>| -> String {
        errors.iter().map(|error| format!("{FILE}: {error}")).collect::<Vec<_>>().join("\n")
    };
    let document = Document::parse(text, private).map_err(lines)?;
    let policy = Policy::new(document, anonymous, deletion, Some("admin")).map_err(lines)?;
    match explained {
        None => Ok(format!("{FILE} is valid")),
        Some((who, action, repository)) => explain(&policy, text, who, action, repository),
    }
}

/// Whether somebody may do something, the rule that decides, and the entry that makes the tag immutable.
fn explain(
    policy: &Policy,
    text: &str,
    who: &str,
    action: &str,
    repository: Option<&str>,
) -> Result<String, String> {
    let principal = principal(policy, who)?;
    let (name, tag) =
        match repository.map(|repository| repository.split_once(':').unwrap_or((repository, ""))) {
            None => (None, None),
            Some((name, tag)) => {
                let name: RepositoryName = name.parse().map_err(|error| format!("{error}"))?;
                let tag = Some(tag).filter(|tag| !tag.is_empty()).map(str::parse::<Tag>).transpose();
                (Some(name), tag.map_err(|error| error.to_string())?)
            }
        };
    let access = match (action, &name) {
        ("admin", None) => Access::Administer,
        ("metrics", None) => Access::Metrics,
        ("pull", Some(name)) => Access::Repository(name, Action::Pull),
        ("push", Some(name)) => Access::Repository(name, Action::Push),
        ("delete", Some(name)) => Access::Repository(name, Action::Delete),
        _ => return Err(USAGE.to_owned()),
    };
    let decision = policy.decide(&principal, access);
    let mut answer = decision.to_string();
    match (&principal, decision.reason) {
        (Principal::Key(_), Reason::Scopes) if decision.allowed => answer.push_str(": no rule names it"),
        (Principal::Key(_), Reason::Scopes) => answer = "refused: keys never administer".to_owned(),
        (Principal::Key(_), _) if decision.allowed && name.is_some() => {
            answer.push_str(", if the scopes of the key allow it");
        }
        _ => {}
    }
    if let Reason::Rule(Source::Line(line)) = decision.reason {
        quote(&mut answer, text, line);
    }
    let quota = name.as_ref().and_then(|name| policy.quota(name));
    let immutable = name.zip(tag).and_then(|(name, tag)| Some((policy.immutable_by(&name, &tag)?, tag)));
    if let Some((line, tag)) = immutable.filter(|_| decision.allowed && action != "pull") {
        let _ = write!(answer, "\nBut the tag {tag}, once it exists, is immutable by line {line}");
        quote(&mut answer, text, line);
    }
    if let Some(quota) = quota.filter(|_| decision.allowed && action == "push") {
        let _ = write!(answer, "\nBut there is a quota, by line {}", quota.line);
        quote(&mut answer, text, quota.line);
    }
    Ok(answer)
}

fn principal(policy: &Policy, who: &str) -> Result<Principal, String> {
    Ok(match who.split_once(':') {
        None if who == "anonymous" => Principal::Anonymous,
        None => Principal::User(who.to_owned()),
        Some(("key", name)) => {
            let all = |glob| KeyScope { repositories: glob, actions: Action::ALL.to_vec() };
            let scopes = Glob::new("**").map(all).into_iter().collect();
            Principal::Key(Key { id: String::new(), name: name.to_owned(), scopes })
        }
        Some((issuer, claims)) => {
            if !policy.issuers().iter().any(|known| known.name == issuer) {
                return Err(format!("{FILE} has no issuer {issuer:?}"));
            }
            let claim = |claim: &str| {
                let (name, value) = claim.split_once('=').ok_or(format!("{claim:?} must be claim=value"))?;
                Ok((name.to_owned(), value.to_owned()))
            };
            let claims = claims.split(',').map(claim).collect::<Result<_, String>>()?;
            Principal::External(External { issuer: issuer.to_owned(), subject: String::new(), claims })
        }
    })
}

/// Adds the lines of a table, up to the next table or empty line.
fn quote(answer: &mut String, text: &str, first: usize) {
    let is_inside = |(number, line): &(usize, &str)| {
        *number == first || !line.trim().is_empty() && !line.starts_with('[')
    };
    let lines =
        text.lines().enumerate().map(|(at, line)| (at + 1, line)).skip_while(|(number, _)| *number < first);
    for (number, line) in lines.take_while(is_inside) {
        let _ = write!(answer, "\n{number:>5} | {line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a command as the documentation writes it.
    fn answer(command: &str, text: &str) -> String {
        let arguments: Vec<&str> = command.split_whitespace().collect();
        run(&arguments, text, &|_| None).unwrap_or_else(|error| error)
    }

    #[test]
    fn the_answers_in_the_documentation_are_those_of_the_command() {
        let documentation = include_str!("../docs/policy.md");
        let blocks = |language: &str| -> Vec<&str> {
            let start = format!("```{language}\n");
            documentation.split(&start).skip(1).map(|rest| rest.split("\n```").next().unwrap()).collect()
        };
        // The complete document comes first; the others are parts.
        let document = blocks("toml")[0];
        let mut commands = 0;
        for block in blocks("console") {
            for command in block.split("$ npm run policy -- ").skip(1) {
                let (command, expected) = command.split_once('\n').unwrap();
                commands += 1;
                assert_eq!(answer(command, document), expected.trim_end(), "{command}");
            }
        }
        assert!(commands > 5, "{commands}");
        let rule = "[[rule]]\nusers = true\nrepositories = [\"team/*\"]\nactions = []\n\n";
        let tie = rule.to_owned() + &rule.replace("team/*", "*/apps");
        let wrong = rule.replace("team", "Team").replace("[]", "[\"write\"]") + "[[rule]]\n";
        let wrong = wrong + "repositories = [\"a\"]\nactions = []\n";
        for text in [tie, wrong] {
            assert!(blocks("text").contains(&answer("check", &text).as_str()), "{}", answer("check", &text));
        }
        for part in blocks("toml") {
            let issuer = document.split("[[issuer]]").nth(1).unwrap().split("[[").next().unwrap();
            let text = match part.contains("issuer = ") && !part.contains("[[issuer]]") {
                true => format!("[[issuer]]{issuer}{part}"),
                false => part.to_owned(),
            };
            assert_eq!(answer("check", &text), "policy.toml is valid", "{part}");
        }
    }

    #[test]
    fn settings_are_those_of_wrangler_toml() {
        let wrangler = include_str!("../wrangler.toml");
        assert_eq!(variable(wrangler, "ANONYMOUS").as_deref(), Some("none"));
        assert_eq!(variable(wrangler, "NO_SUCH"), None);
        let wrangler = "[vars]\nANONYMOUS = \"pull\"\nDELETION = \"off\"\n";
        let ask = |arguments: &[&str]| run(arguments, "", &|name| variable(wrangler, name)).unwrap();
        assert_eq!(ask(&["explain", "anonymous", "pull", "a"]), "allowed by the setting ANONYMOUS");
        assert_eq!(
            ask(&["explain", "ann", "delete", "a"]),
            "refused: DELETION is off, and no rule grants delete"
        );
        for (name, value, expected) in [
            ("ANONYMOUS", "yes", "ANONYMOUS must be one of none, pull, push"),
            ("DELETION", "no", "DELETION must be one of on, off"),
        ] {
            let setting = |other: &str| (other == name).then(|| value.to_owned());
            assert_eq!(run(&["check"], "", &setting).unwrap_err(), expected);
        }
    }

    #[test]
    fn wrong_arguments_and_documents_are_explained() {
        for command in
            ["", "explain", "explain ann push", "explain ann admin a", "explain ann write a", "check x"]
        {
            assert_eq!(answer(command, ""), USAGE, "{command}");
        }
        for (command, expected) in [
            ("explain ann push A", "\"A\" is not a repository name"),
            ("explain ann push a:-", "\"-\" is not a tag"),
            ("explain github:ref=a push a", "policy.toml has no issuer \"github\""),
        ] {
            assert!(answer(command, "").starts_with(expected), "{command}");
        }
        let text = "[[rule]]\nuser = 1\n[[tags]]\n";
        let lines = answer("check", text);
        assert_eq!(lines.lines().count(), 5, "{lines}");
        assert!(lines.lines().all(|line| line.starts_with("policy.toml: line ")), "{lines}");
    }
}
