//! `<lora:name:0.8>` and similar tags in a prompt, in the format of AUTOMATIC1111's web UI.

/// A tag in a prompt.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Tag {
    /// A LoRA.
    Lora {
        /// Name of its file without the extension.
        name: String,
        /// Its strength; 1 by default.
        strength: f32,
        /// The whole tag if it has more parameters, such as a second strength for the U-Net alone.
        says_more: Option<String>,
    },
    /// A LoRA whose strength is not a finite number: the whole tag.
    WrongStrength(String),
    /// A tag for something that sdq does not support: the whole tag.
    Other(String),
}

/// Removes the tags from `prompt`, each with a space before it. Time is linear in the prompt's length.
pub(crate) fn take(prompt: &mut String) -> Vec<Tag> {
    let mut tags = Vec::new();
    let mut left = String::with_capacity(prompt.len());
    let mut rest = prompt.as_str();
    while let Some(start) = rest.find('<') {
        let (before, from_start) = rest.split_at(start);
        left.push_str(before);
        // A tag ends before the next one begins.
        let end = from_start[1..].find(['<', '>']).map(|place| place + 1);
        let Some(end) = end else {
            rest = from_start;
            break;
        };
        match from_start[end..].starts_with('>').then(|| parse(&from_start[1..end])).flatten() {
            Some(tag) => {
                tags.push(tag);
                if left.ends_with(' ') {
                    left.pop();
                }
                rest = &from_start[end + 1..];
            }
            None => {
                left.push_str(&from_start[..end]);
                rest = &from_start[end..];
            }
        }
    }
    left.push_str(rest);
    *prompt = left;
    tags
}

/// Parses the tag `text`, given without its brackets; `None` if it is not a tag.
fn parse(text: &str) -> Option<Tag> {
    let mut parts = text.split(':');
    let (kind, name) = (parts.next()?, parts.next()?);
    match kind {
        "lora" => {
            let strength = parts.next().map_or(Ok(1.0), str::parse::<f32>);
            Some(match strength.ok().filter(|strength| strength.is_finite()) {
                Some(strength) => {
                    let says_more = parts.next().map(|_| format!("<{text}>"));
                    Tag::Lora { name: name.to_owned(), strength, says_more }
                }
                None => Tag::WrongStrength(format!("<{text}>")),
            })
        }
        "lyco" | "hypernet" => Some(Tag::Other(format!("<{text}>"))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_leave_the_prompt() {
        let mut prompt =
            "a cat <lora:ink:0.7>, <b> <lora:soft> <lyco:x:1> 1 <2 <lora:w:0.5:1> <lora:much:x> <lora:open"
                .to_owned();
        let lora = |name: &str, strength, says_more: Option<&str>| Tag::Lora {
            name: name.to_owned(),
            strength,
            says_more: says_more.map(str::to_owned),
        };
        assert_eq!(
            take(&mut prompt),
            [
                lora("ink", 0.7, None),
                lora("soft", 1.0, None),
                Tag::Other("<lyco:x:1>".to_owned()),
                lora("w", 0.5, Some("<lora:w:0.5:1>")),
                Tag::WrongStrength("<lora:much:x>".to_owned()),
            ]
        );
        assert_eq!(prompt, "a cat, <b> 1 <2 <lora:open");
    }

    #[test]
    fn strengths_are_finite() {
        for wrong in ["<lora:ink:much>", "<lora:ink:inf>", "<lora:ink:>"] {
            assert_eq!(take(&mut wrong.to_owned()), [Tag::WrongStrength(wrong.to_owned())]);
        }
    }

    #[test]
    fn what_is_no_tag_stays_in_the_prompt() {
        for prompt in [
            "",
            "a cat",
            "<",
            "<>",
            "a < b > c",
            "<lora>",
            "<LORA:ink>",
            "<cat:1>",
            "<lora:ink",
            "lora:ink>",
            "<<<",
            "> <lora",
            "a  <b:c>",
        ] {
            let mut left = prompt.to_owned();
            assert_eq!((take(&mut left), left.as_str()), (Vec::new(), prompt));
        }
    }

    /// One space before a tag is removed with it; others belong to the prompt.
    #[test]
    fn a_tag_takes_one_space_along() {
        for (prompt, left) in [
            ("<lora:ink>", ""),
            ("<lora:ink> cat", " cat"),
            ("cat <lora:ink>", "cat"),
            ("cat  <lora:ink>", "cat "),
            ("cat<lora:ink>dog", "catdog"),
            ("cat\n<lora:ink>", "cat\n"),
            ("<lora:a><lora:b>狐", "狐"),
            ("a <b <lora:ink> c", "a <b c"),
        ] {
            let mut found = prompt.to_owned();
            assert!(!take(&mut found).is_empty(), "{prompt}");
            assert_eq!(found, left, "{prompt}");
        }
    }

    #[test]
    fn strengths_are_numbers_of_any_sign() {
        for (text, expected) in
            [("1", 1.0), ("-0.5", -0.5), ("+2", 2.0), ("1e-2", 0.01), (".5", 0.5), ("0", 0.0)]
        {
            let tags = take(&mut format!("<lora:ink:{text}>"));
            let lora = Tag::Lora { name: "ink".to_owned(), strength: expected, says_more: None };
            assert_eq!(tags, [lora], "{text}");
        }
        for text in ["nan", "-inf", " 1", "1 ", "0,5", "1e99", "é"] {
            let tag = format!("<lora:ink:{text}>");
            assert_eq!(take(&mut tag.clone()), [Tag::WrongStrength(tag)]);
        }
    }
}
