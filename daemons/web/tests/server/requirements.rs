//! RFCS.md leads from requirements to code and tests. This keeps its signposts upright.

use std::{collections::BTreeMap, fs, path::Path};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

#[test]
fn the_table_of_requirements_names_code_and_tests_that_exist() {
    let table = fs::read_to_string(Path::new(ROOT).join("RFCS.md")).unwrap();
    // `[head]: daemons/web/src/head.rs`
    let places: BTreeMap<&str, String> = table
        .lines()
        .filter_map(|line| line.strip_prefix('[')?.split_once("]: "))
        .map(|(name, path)| (name, fs::read_to_string(Path::new(ROOT).join(path)).expect(path)))
        .collect();
    let mut followed = 0;
    for line in table.lines().filter(|line| line.starts_with("| ")) {
        // `[head] `field_line`` in a cell: something of this name is in that file.
        for (name, rest) in line.split('[').filter_map(|piece| piece.split_once(']')) {
            if name == " " {
                continue;
            }
            let text = places.get(name).unwrap_or_else(|| panic!("[{name}] leads nowhere in: {line}"));
            if let Some((item, _)) = rest.strip_prefix(" `").and_then(|rest| rest.split_once('`')) {
                assert!(text.contains(item), "[{name}] has no `{item}`: {line}");
                followed += 1;
            }
        }
    }
    assert!(followed > 50, "{followed} signposts only");
}
