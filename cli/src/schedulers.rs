//! `sdq schedulers`: what there is and what it takes.

pub(crate) fn run() -> anyhow::Result<()> {
    for entry in sdq_schedulers::schedulers() {
        println!("{:<18} {}", entry.name, entry.summary);
        if !entry.aliases.is_empty() {
            println!("{:<18} also: {}", "", entry.aliases.join(", "));
        }
        for option in entry.all_options() {
            println!("{:<18} --scheduler-option {}=…  {}", "", option.key, option.values);
        }
    }
    Ok(())
}
