//! `<lora:name:0.8>` and its kin in a prompt.

use super::UsedLora;

/// What a prompt asked for in tags.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Tags {
    pub(super) loras: Vec<UsedLora>,
    /// Tags, or parts of them, that sdq has nothing for.
    pub(super) unused: Vec<String>,
}

/// Takes the tags out of `prompt`, each with a space before it. Time is linear in the prompt's length.
pub(super) fn take(prompt: &mut String) -> Tags {
    let mut tags = Tags::default();
    let mut left = String::with_capacity(prompt.len());
    let mut rest = prompt.as_str();
    while let Some(start) = rest.find('<') {
        let (before, from_start) = rest.split_at(start);
        left.push_str(before);
        // A tag ends before another begins.
        let end = from_start[1..].find(['<', '>']).map(|place| place + 1);
        let Some(end) = end else {
            rest = from_start;
            break;
        };
        match from_start[end..].starts_with('>').then(|| tags.add(&from_start[1..end])) {
            Some(true) => {
                if left.ends_with(' ') {
                    left.pop();
                }
                rest = &from_start[end + 1..];
            }
            _ => {
                left.push_str(&from_start[..end]);
                rest = &from_start[end..];
            }
        }
    }
    left.push_str(rest);
    *prompt = left;
    tags
}

impl Tags {
    /// Whether `tag`, without its brackets, is one.
    fn add(&mut self, tag: &str) -> bool {
        let mut parts = tag.split(':');
        let kind = parts.next().unwrap_or_default();
        let name = parts.next();
        match (kind, name) {
            ("lora", Some(name)) => {
                let strength = parts.next().map_or(Ok(1.0), str::parse::<f32>);
                let known = strength.ok().filter(|strength| strength.is_finite());
                match known {
                    Some(strength) => self.loras.push(UsedLora { file: name.to_owned(), strength }),
                    None => self.unused.push(format!("<{tag}>")),
                }
                // The second strength is that of the U-Net alone.
                if known.is_some() && parts.next().is_some() {
                    self.unused.push(format!("what <{tag}> says after its first strength"));
                }
                true
            }
            ("lyco" | "hypernet", Some(_)) => {
                self.unused.push(format!("<{tag}>"));
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_leave_the_prompt() {
        let mut prompt =
            "a cat <lora:ink:0.7>, <b> <lora:soft> <lyco:x:1> 1 <2 <lora:w:0.5:1> <lora:open".to_owned();
        let tags = take(&mut prompt);
        let lora = |file: &str, strength| UsedLora { file: file.to_owned(), strength };
        assert_eq!(tags.loras, [lora("ink", 0.7), lora("soft", 1.0), lora("w", 0.5)]);
        assert_eq!(tags.unused, ["<lyco:x:1>", "what <lora:w:0.5:1> says after its first strength"]);
        assert_eq!(prompt, "a cat, <b> 1 <2 <lora:open");
        let mut wrong = "<lora:ink:much>".to_owned();
        assert_eq!(take(&mut wrong).unused, ["<lora:ink:much>"]);
    }
}
