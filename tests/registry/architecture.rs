//! Checks the floors in `src/lib.rs`: a module uses only itself and lower floors.

use std::{collections::BTreeMap, fs, path::Path};

/// The floor of each module, counted from the top.
fn floors() -> BTreeMap<String, usize> {
    let lib = include_str!("../../src/lib.rs");
    let (_, list) = lib.split_once("//! # Floors").unwrap();
    let lines = list.lines().filter_map(|line| line.strip_prefix("//! ")?.split_once(". `"));
    let floors: BTreeMap<String, usize> = lines
        .flat_map(|(number, names)| {
            let number = number.parse().unwrap();
            names
                .split([',', ' ', '`'])
                .filter(|name| !name.is_empty())
                .map(move |name| (name.to_owned(), number))
        })
        .collect();
    let declared = lib.lines().filter_map(|line| line.split("mod ").nth(1)?.strip_suffix(';'));
    for module in declared.clone() {
        assert!(floors.contains_key(module), "src/lib.rs has no floor for {module}");
    }
    assert_eq!(floors.len(), declared.count(), "src/lib.rs has a floor without a module");
    floors
}

/// The modules named after `crate::` in a source, also in braces.
fn used(source: &str, prefix: &str) -> Vec<String> {
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    let code: String = source.lines().filter(is_code).flat_map(|line| [line, "\n"]).collect();
    let mut names = Vec::new();
    for (_, rest) in code.match_indices(prefix).map(|(at, name)| code.split_at(at + name.len())) {
        let Some(list) = rest.strip_prefix('{') else {
            names.push(word(rest));
            continue;
        };
        let mut depth = 0;
        let mut is_start = true;
        for (at, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => is_start = true,
                _ if is_start && c.is_alphabetic() => {
                    names.push(word(&list[at..]));
                    is_start = false;
                }
                _ => {}
            }
        }
    }
    names
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn visit(folder: &Path, found: &mut dyn FnMut(&Path, &str)) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            visit(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found(&path, &fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn modules_use_only_lower_floors() {
    let (floors, root) = (floors(), Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let (mut files, mut upward) = (0, Vec::new());
    visit(&root, &mut |path, source| {
        let relative = path.strip_prefix(&root).unwrap();
        let module = relative.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        if module == "lib" {
            return;
        }
        files += 1;
        let mut names = used(source, "crate::");
        for name in names.iter().filter(|name| !floors.contains_key(*name)) {
            upward.push(format!("{}: crate::{name} is not a module", relative.display()));
        }
        // In a module's own file, `super` is the crate.
        if relative.components().count() == 1
            || (relative.components().count() == 2 && relative.ends_with("mod.rs"))
        {
            names.extend(used(source, "super::"));
        }
        let is_upward = |name: &&String| {
            **name != module && floors.get(*name).is_some_and(|floor| *floor <= floors[module])
        };
        for name in names.iter().filter(is_upward) {
            upward.push(format!("{}: {module} uses {name}, which is not below it", relative.display()));
        }
    });
    assert!(files > 50, "only {files} files were found");
    assert_eq!(upward, Vec::<String>::new());
}

#[test]
fn every_form_of_use_is_parsed() {
    let source = "use crate::a::B;\nuse crate::{\n    b::{C, d::E},\n    f, g::h,\n};\nfn x() { crate::i::j() }\n// crate::k\n";
    assert_eq!(used(source, "crate::"), ["a", "b", "f", "g", "i"]);
}
