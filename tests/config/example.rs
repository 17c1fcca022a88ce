//! The example file holds every setting, explained, with its real default.

use gearmand::config::{RELOADABLE, Resolved};

use crate::World;

const EXAMPLE: &str = include_str!("../../gearmand.toml.example");

/// The settings of the example file: the comment above each, its name, and its line without the `#`.
fn example_settings() -> Vec<(String, String, String)> {
    let mut settings = Vec::new();
    let mut comment = String::new();
    for line in EXAMPLE.lines() {
        match line.strip_prefix('#').filter(|rest| rest.starts_with(|first: char| first.is_ascii_lowercase())) {
            Some(setting) => {
                let name = setting.split(' ').next().unwrap().to_owned();
                settings.push((std::mem::take(&mut comment), name, setting.to_owned()));
            }
            None if line.is_empty() => comment.clear(),
            None => comment.extend([line, "\n"]),
        }
    }
    settings
}

fn value_of(resolved: &Resolved, name: &str) -> Vec<String> {
    let setting = resolved.settings().into_iter().find(|setting| setting.name == name);
    setting.unwrap_or_else(|| panic!("{name} is not shown")).values
}

#[test]
fn the_example_changes_nothing_as_it_is() {
    assert_eq!(World::new(&[]).file("gearmand.toml", EXAMPLE).config(), World::new(&[]).config());
}

#[test]
fn the_example_lists_every_setting_once_with_its_default() {
    let defaults = World::new(&[]).resolved();
    let example = example_settings();
    let mut names: Vec<_> = example.iter().map(|(_, name, _)| name.clone()).collect();
    let mut known: Vec<_> = defaults.settings().into_iter().map(|setting| setting.name).collect();
    names.sort();
    known.sort();
    assert_eq!(names, known);
    let lines: Vec<_> = example.iter().map(|(_, _, line)| line.as_str()).collect();
    let all = World::new(&[]).file("gearmand.toml", lines.join("\n")).resolved();
    // It names one queue, and shows the options of all.
    let of_other_queues = |warning: &&String| warning.contains("has no effect without --queue-type");
    let others: Vec<_> = all.warnings.iter().filter(|warning| !of_other_queues(warning)).collect();
    assert!(others.is_empty(), "{others:?}");
    for (comment, name, line) in &example {
        let (given, default) = (value_of(&all, name), value_of(&defaults, name));
        assert!(!comment.is_empty(), "{name} is not explained");
        if comment.contains("Not set by default") {
            assert!(default.is_empty() || name == "job-handle-prefix", "{name} has the default {default:?}");
        } else {
            assert_eq!(given, default, "{line}");
        }
        assert_eq!(comment.contains("Reloaded"), RELOADABLE.contains(&name.as_str()), "{name}: {comment}");
    }
}
