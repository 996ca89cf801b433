//! Command lines and flags in the documentation and in the help.

use std::collections::BTreeSet;

use sdq_tests::documents::{code_blocks, document, documents, spans};

/// In the README's list it stands for the flags that choose a device.
const DEVICE: &str = "DEVICE";

/// The commands of sdq in the code of `text`, in the words of a shell, after `sdq`.
fn command_lines(text: &str) -> Vec<Vec<String>> {
    let mut commands = Vec::new();
    for block in code_blocks(text).iter().filter(|block| !is_synopsis(block)) {
        let code = block.join("\n").replace("\\\n", " ");
        for line in code.lines() {
            // A remark stands further to the right.
            let line = line.trim_start().split("   ").next().unwrap_or_default();
            let Some(words) = shlex::split(line) else { continue };
            let parts = words.split(|word| ["|", ">", "&&", ";"].contains(&word.as_str()));
            commands.extend(parts.filter_map(arguments));
        }
    }
    commands
}

/// The words after `sdq`, or after the line that builds and runs it: a command with its arguments. Parts in brackets may be
/// left out: here they are not.
fn arguments(words: &[String]) -> Option<Vec<String>> {
    const RUN: [&str; 4] = ["cargo", "run", "--release", "--"];
    let arguments = match words {
        [first, rest @ ..] if first == "sdq" || (first.ends_with("/sdq") && !first.contains('=')) => rest,
        _ if words.len() > RUN.len() && words[..RUN.len()] == RUN => &words[RUN.len()..],
        _ => return None,
    };
    // A drawing is not a command.
    if !arguments.first().is_some_and(|word| word.starts_with(|letter: char| letter.is_ascii_alphabetic())) {
        return None;
    }
    let mut is_open = false;
    let plain = arguments.iter().map(|word| {
        let inner = word.strip_prefix('[').filter(|inner| inner.starts_with('-'));
        is_open |= inner.is_some();
        let word = inner.unwrap_or(word);
        match word.strip_suffix(']').filter(|_| is_open) {
            Some(word) => {
                is_open = false;
                word.to_owned()
            }
            None => word.to_owned(),
        }
    });
    Some(plain.collect())
}

/// Whether `block` is the README's list of all commands and flags.
fn is_synopsis(block: &[&str]) -> bool {
    block.first().is_some_and(|line| line.starts_with("sdq generate PROMPT"))
}

/// The entries of that list: the name of a command, and everything that follows it. [`DEVICE`] has one too.
fn synopsis() -> Vec<(String, String)> {
    let readme = document("README.md");
    let blocks = code_blocks(&readme);
    let block = blocks.iter().find(|block| is_synopsis(block)).expect("the README lists the flags");
    let mut entries: Vec<(String, String)> = Vec::new();
    for line in block {
        let line = line.strip_prefix("sdq ").unwrap_or(line);
        let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
        if !name.is_empty() {
            entries.push((name.to_owned(), String::new()));
        }
        let (_, text) = entries.last_mut().expect("the list begins with a command");
        text.push(' ');
        // A remark stands further to the right.
        text.push_str(rest.trim_start().split("   ").next().unwrap_or_default());
    }
    entries
}

/// The flags in `text`, without their values.
fn flags(text: &str) -> Vec<&str> {
    let words = text.split(|letter: char| letter.is_whitespace() || "[](){}|,;\"'`".contains(letter));
    let names = words.filter(|word| {
        let name = word.trim_start_matches('-');
        (1..=2).contains(&(word.len() - name.len()))
            && name.starts_with(|letter: char| letter.is_ascii_alphabetic())
    });
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
    names.map(|word| word.split(|letter| !is_name(letter)).next().unwrap_or_default()).collect()
}

/// Every spelling of the flags of `command`; each flag has several.
fn spellings(command: &clap::Command) -> Vec<Vec<String>> {
    let arguments = command.get_arguments().filter(|argument| !argument.is_positional());
    let flags = arguments.map(|argument| {
        let long = argument.get_long_and_visible_aliases().unwrap_or_default();
        let short = argument.get_short_and_visible_aliases().unwrap_or_default();
        let long = long.into_iter().map(|name| format!("--{name}"));
        long.chain(short.into_iter().map(|name| format!("-{name}"))).collect()
    });
    flags.collect()
}

fn built() -> clap::Command {
    let mut command = sdq_cli::command();
    command.build();
    command
}

#[test]
fn command_lines_are_valid() {
    let (mut checked, mut refused) = (0, Vec::new());
    for document in documents() {
        for arguments in command_lines(&document.text) {
            checked += 1;
            let line = std::iter::once("sdq".to_owned()).chain(arguments.iter().cloned());
            if let Err(error) = sdq_cli::command().try_get_matches_from(line) {
                refused.push(format!("{}: sdq {}: {error}", document.name, arguments.join(" ")));
            }
        }
    }
    assert!(refused.is_empty(), "{refused:#?}");
    assert!(checked > 25, "{checked} command lines were found");
}

/// What the README's list says of a command is what the command takes: each flag, and each choice of a value.
#[test]
fn the_readme_lists_every_command_and_flag() {
    let command = built();
    let entries = synopsis();
    let text_of = |name: &str| entries.iter().find(|(entry, _)| entry == name).map(|(_, text)| text.as_str());
    let listed: BTreeSet<&str> =
        entries.iter().map(|(name, _)| name.as_str()).filter(|name| *name != DEVICE).collect();
    let commands: BTreeSet<&str> =
        command.get_subcommands().map(clap::Command::get_name).filter(|name| *name != "help").collect();
    assert_eq!(listed, commands);
    for command in command.get_subcommands().filter(|command| listed.contains(command.get_name())) {
        let name = command.get_name();
        let mut text = text_of(name).unwrap_or_default().to_owned();
        for (words, entry) in [("the flags of generate", "generate"), (DEVICE, DEVICE)] {
            if text.contains(words) {
                text = text.replace(words, text_of(entry).expect("it is in the list"));
            }
        }
        let found: BTreeSet<&str> = flags(&text).into_iter().collect();
        let known = spellings(command);
        let unknown: Vec<&&str> =
            found.iter().filter(|flag| !known.iter().flatten().any(|known| known == **flag)).collect();
        assert!(unknown.is_empty(), "sdq {name} has no {unknown:?}");
        let missing: Vec<&Vec<String>> = known
            .iter()
            .filter(|names| {
                !names
                    .iter()
                    .any(|name| found.contains(name.as_str()) || ["-h", "-V"].contains(&name.as_str()))
            })
            .collect();
        assert!(missing.is_empty(), "the README does not list {missing:?} of sdq {name}");
        for argument in command.get_arguments().filter(|argument| argument.get_num_args() != Some(0.into())) {
            let choices: Vec<String> =
                argument.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
            let is_switch = choices == ["true", "false"];
            let as_flag = argument.get_long().map_or(String::new(), |long| format!("--{long} "));
            let is_listed = text.contains(&format!("{as_flag}{}", choices.join("|")))
                || text.contains(&format!("{as_flag}{}", "TYPE"));
            assert!(
                choices.is_empty() || is_switch || is_listed,
                "{as_flag}of sdq {name} is one of {choices:?}"
            );
        }
    }
}

/// Flags that sentences name, alone or after a command, exist.
#[test]
fn flags_in_sentences_exist() {
    let command = built();
    let all: BTreeSet<String> = command.get_subcommands().flat_map(spellings).flatten().collect();
    let (mut checked, mut unknown) = (0, Vec::new());
    // Others describe other programs.
    let about_sdq = |name: &str| name.starts_with("docs/") || !name.contains('/');
    for document in documents().into_iter().filter(|document| about_sdq(&document.name)) {
        for span in spans(&document.text) {
            let words: Vec<&str> = span.split_whitespace().collect();
            let own: Option<BTreeSet<String>> = match words[..] {
                ["sdq", name, ..] if name.chars().all(|letter| letter.is_ascii_lowercase()) => {
                    match command.find_subcommand(name) {
                        Some(command) => Some(spellings(command).into_iter().flatten().collect()),
                        None => {
                            unknown.push(format!("{}: `{span}`", document.name));
                            continue;
                        }
                    }
                }
                [first, ..] if first.starts_with('-') => None,
                _ => continue,
            };
            for flag in flags(&span) {
                checked += 1;
                if !own.as_ref().unwrap_or(&all).contains(flag) {
                    unknown.push(format!("{}: {flag} in `{span}`", document.name));
                }
            }
        }
    }
    assert!(unknown.is_empty(), "{unknown:#?}");
    assert!(checked > 100, "{checked} flags were found");
}

/// The help of a command names flags of the same command.
#[test]
fn flags_in_the_help_exist() {
    let command = built();
    for command in command.get_subcommands() {
        let known: BTreeSet<String> = spellings(command).into_iter().flatten().collect();
        for argument in command.get_arguments() {
            let help =
                argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
            for flag in flags(&help) {
                let name = command.get_name();
                assert!(known.contains(flag), "sdq {name} has no {flag}, which its help names: {help}");
            }
        }
    }
}
