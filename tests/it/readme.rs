//! The README keeps up with the programs: its table names every option, with its variable and default, and no other;
//! and the Rust that it asks for is enough for every dependency.

use std::collections::BTreeSet;

use clap::CommandFactory;

const README: &str = include_str!("../../README.md");

/// What a row of the table says: variable, option, program, default (nothing when there is none).
type Row = (String, String, String, Option<String>);

fn rows() -> BTreeSet<Row> {
    let chapter = README.split("\n## Configuration\n").nth(1).unwrap();
    let chapter = chapter.split("\n## ").next().unwrap();
    let table = chapter.lines().filter(|line| line.starts_with("| `"));
    let mut rows = BTreeSet::new();
    for line in table {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [variable, option, programs, default, meaning] = cells[..] else {
            panic!("five cells are expected in {line}")
        };
        assert!(!meaning.is_empty(), "{line}");
        let code = |cell: &str| cell.strip_prefix('`')?.strip_suffix('`').map(str::to_owned);
        for program in programs.split(", ") {
            rows.insert((
                code(variable).unwrap(),
                code(option).unwrap(),
                program.to_owned(),
                code(default),
            ));
        }
    }
    rows
}

fn options(program: &str, command: &clap::Command) -> BTreeSet<Row> {
    let options = command.get_arguments().filter_map(|option| {
        let variable = option.get_env()?.to_str().unwrap().to_owned();
        let defaults: Vec<&str> = option
            .get_default_values()
            .iter()
            .map(|value| value.to_str().unwrap())
            .collect();
        let default = (!defaults.is_empty()).then(|| defaults.join(","));
        Some((
            variable,
            format!("--{}", option.get_long().unwrap()),
            program.to_owned(),
            default,
        ))
    });
    options.collect()
}

#[test]
fn the_configuration_table_names_every_option_and_no_other() {
    let mut all = options("api", &roost_api::cli::Cli::command());
    all.extend(options("worker", &roost_worker::Options::command()));
    let rows = rows();
    let missing: Vec<&Row> = all.difference(&rows).collect();
    let wrong: Vec<&Row> = rows.difference(&all).collect();
    assert!(
        missing.is_empty() && wrong.is_empty(),
        "missing: {missing:#?}\nnot so: {wrong:#?}"
    );
}

#[test]
fn every_subcommand_and_every_queue_is_named() {
    let commands = [roost_api::cli::Cli::command(), roost_worker::Options::command()];
    for command in &commands {
        for subcommand in command.get_subcommands() {
            let name = format!("`{} {}`", command.get_name(), subcommand.get_name());
            assert!(README.contains(&name), "{name}");
        }
    }
    for queue in roost_shared::jobs::Queue::ALL {
        assert!(README.contains(&format!("`{}`", queue.name())), "{}", queue.name());
    }
}

/// `1.94` and `1.94.0` are the same.
fn version(text: &str) -> Vec<u64> {
    let mut numbers: Vec<u64> = text.split('.').map(|number| number.parse().unwrap()).collect();
    numbers.resize(3, 0);
    numbers
}

#[test]
fn the_rust_that_is_asked_for_builds_every_dependency() {
    let root = roost_tests::services::workspace_root().unwrap();
    let out = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--locked", "--format-version", "1"])
        .current_dir(root)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    // The workspace's own have no source.
    let (ours, others): (Vec<_>, Vec<_>) = packages.iter().partition(|package| package["source"].is_null());
    let needed = others
        .iter()
        .filter_map(|package| Some((version(package["rust_version"].as_str()?), &package["name"])))
        .max_by(|(one, _), (other, _)| one.cmp(other))
        .unwrap();
    let asked = README.split("You need Rust ").nth(1).unwrap();
    let asked = version(asked.split_whitespace().next().unwrap());
    for package in ours {
        let declared = version(package["rust_version"].as_str().unwrap());
        assert_eq!(declared, asked, "the README and {}", package["name"]);
    }
    assert!(
        asked >= needed.0,
        "Rust {asked:?} is asked for, and {needed:?} is needed"
    );
}

#[test]
fn files_that_are_named_are_there() {
    let root = roost_tests::services::workspace_root().unwrap();
    let quoted = README.split('`').skip(1).step_by(2);
    let mut seen = 0;
    for path in quoted.filter(|text| {
        let folder = [
            "api/",
            "shared/",
            "worker/",
            "tests/",
            "migrations/",
            ".ci/",
            ".config/",
        ];
        folder.iter().any(|folder| text.starts_with(folder)) && !text.contains(['<', '*', '{', ' ', '\n'])
    }) {
        let file = path.split("::").next().unwrap_or(path);
        assert!(root.join(file).exists(), "{path}");
        seen += 1;
    }
    assert!(seen > 20, "the README names its files in backticks: {seen}");
}
