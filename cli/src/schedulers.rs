//! `sdq schedulers`: lists the schedulers, when to use them, and their options.

use sdq::schedulers::{self, SchedulerEntry, SchedulerOption};

pub(crate) fn run() -> anyhow::Result<()> {
    let entries = schedulers::schedulers();
    for entry in &entries {
        say!("{:<19} {}", entry.name, entry.summary);
        if !entry.aliases.is_empty() {
            say!("{:<19}   also called {}", "", entry.aliases.join(", "));
        }
        for preset in entry.presets {
            let config: Vec<String> =
                preset.config.iter().map(|(key, value)| format!("{key}={value}")).collect();
            say!("{:<19}   {} sets {}", "", preset.name, config.join(", "));
        }
        let keys: Vec<&str> = entry.all_options().map(|option| option.key).collect();
        for line in wrapped("options: ", &keys) {
            say!("{:<19}   {line}", "");
        }
        say!("");
    }
    say!("Sigma schedules, each after a scheduler's name, such as `euler-karras` or \"Euler Karras\":");
    for schedule in schedulers::schedules() {
        let others: Vec<&str> =
            std::iter::once(schedule.label).chain(schedule.aliases.iter().copied()).collect();
        say!("  {:<27} also called {}", schedule.name, others.join(", "));
    }
    say!("");
    say!("Options, each as --scheduler-option KEY=VALUE:");
    for (option, readers) in options(&entries) {
        let only = if readers.len() < 3 { format!(" ({})", readers.join(", ")) } else { String::new() };
        say!("  {:<27} {}{only}", option.key, option.values);
    }
    Ok(())
}

/// Every option once, with the schedulers that describe it in the same words.
fn options(entries: &[SchedulerEntry]) -> Vec<(SchedulerOption, Vec<&'static str>)> {
    let mut options: Vec<(SchedulerOption, Vec<&'static str>)> = Vec::new();
    for entry in entries {
        for option in entry.all_options() {
            match options.iter_mut().find(|(known, _)| known == option) {
                Some((_, readers)) => readers.push(entry.name),
                None => options.push((*option, vec![entry.name])),
            }
        }
    }
    options.sort_by_key(|(option, _)| option.key);
    options
}

/// `words` joined by commas, in lines that fit a terminal beside the names.
fn wrapped(start: &str, words: &[&str]) -> Vec<String> {
    const WIDTH: usize = 80;
    let mut lines = vec![start.trim_end().to_owned()];
    for (i, word) in words.iter().enumerate() {
        let end = if i + 1 < words.len() { "," } else { "" };
        if lines.last().is_some_and(|line| line.len() + 1 + word.len() > WIDTH) {
            lines.push(" ".repeat(start.len() - 1));
        }
        if let Some(line) = lines.last_mut() {
            line.push(' ');
            line.push_str(word);
            line.push_str(end);
        }
    }
    lines
}
