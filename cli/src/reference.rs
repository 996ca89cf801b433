//! `sdq completions` and `sdq man`: the flags, as shells and `man` read them.

use clap_complete::Shell;

use crate::{UsageError, command};

/// Prints the completion script of `shell`.
pub(crate) fn completions(shell: Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "sdq", &mut script);
    print(script)
}

/// Prints the manual page of the command `name`, or of sdq.
pub(crate) fn man(name: Option<&str>) -> anyhow::Result<()> {
    let mut command = command();
    // Names the commands as `man` finds their pages: sdq-generate.
    command.build();
    if let Some(name) = name {
        let Some(found) = command.find_subcommand(name) else {
            return Err(
                UsageError(format!("sdq has no command `{name}`; `sdq help` lists the commands")).into()
            );
        };
        command = found.clone();
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    print(page)
}

fn print(text: Vec<u8>) -> anyhow::Result<()> {
    say_part!("{}", String::from_utf8(text)?);
    Ok(())
}
