//! The documented settings are those that the code reads.

use pierhead::config::Config;

#[test]
fn the_readme_lists_every_setting_and_no_other() {
    let readme = include_str!("../../README.md");
    let table = readme.split("\n## ").find(|section| section.starts_with("Configuration")).unwrap();
    let names: Vec<&str> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(name, _)| name))
        .collect();
    assert_eq!(names, Config::variables());
}

#[test]
fn wrangler_toml_sets_known_settings_to_their_defaults() {
    let wrangler = include_str!("../../wrangler.toml");
    let (_, vars) = wrangler.split_once("[vars]").unwrap();
    let vars: Vec<(&str, &str)> = vars.lines().filter_map(|line| line.split_once(" = ")).collect();
    assert!(!vars.is_empty());
    for (name, _) in &vars {
        assert!(Config::variables().contains(name), "{name}");
    }
    let vars: Vec<(&str, &str)> =
        vars.into_iter().chain([("SIGNING_SECRET", "generated"), ("POLICY", "")]).collect();
    let lookup = |name: &str| {
        vars.iter().find(|(var, _)| *var == name).map(|(_, value)| value.trim_matches('"').to_owned())
    };
    assert_eq!(Config::from_vars(lookup), Ok(Config::default()), "wrangler.toml must set the defaults");
}
