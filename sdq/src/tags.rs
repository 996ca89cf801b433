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
        /// Strength in the text encoders, if it is different there.
        text_strength: Option<f32>,
        /// The whole tag if it has more parameters.
        says_more: Option<String>,
    },
    /// A LoRA one of whose strengths is not a finite number: the whole tag.
    WrongStrength(String),
    /// A LoRA without a name: the whole tag.
    Nameless(String),
    /// The beginning of a LoRA's tag that does not end. It stays in the prompt.
    Open(String),
    /// A tag for something that sdq does not support: the whole tag.
    Other(String),
}

/// Removes the tags from `prompt`, each with a space before it. Time is linear in the prompt's length.
pub(crate) fn take(prompt: &mut String) -> Vec<Tag> {
    take_parsed(prompt).into_iter().map(|(_, tag)| tag).collect()
}

/// Removes the tags like [`take`], and returns each with its text.
pub(crate) fn take_parsed(prompt: &mut String) -> Vec<(String, Tag)> {
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
            tags.extend(open(from_start).map(|open| (open.clone(), Tag::Open(open))));
            break;
        };
        let is_closed = from_start[end..].starts_with('>');
        if !is_closed && let Some(open) = open(&from_start[..end]) {
            tags.push((open.clone(), Tag::Open(open)));
        }
        match is_closed.then(|| parse(&from_start[1..end])).flatten() {
            Some(tag) => {
                tags.push((from_start[..=end].to_owned(), tag));
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

/// Parses the tag `text`, given without its brackets; `None` if it is not a tag. The case of its kind does not matter.
fn parse(text: &str) -> Option<Tag> {
    let (kind, values) = text.split_once(':')?;
    let is_name = kind.starts_with(char::is_alphabetic)
        && kind.chars().all(|letter| letter.is_alphanumeric() || "_- .".contains(letter));
    let tag = || format!("<{text}>");
    Some(match is_lora(kind) {
        true if values.is_empty() || values.starts_with(':') => Tag::Nameless(tag()),
        true => lora(values, tag()).unwrap_or_else(|| Tag::WrongStrength(tag())),
        false if is_name => Tag::Other(tag()),
        false => return None,
    })
}

/// Whether `kind` is a name of LoRAs' tags. The web UI accepts both.
fn is_lora(kind: &str) -> bool {
    ["lora", "lyco"].contains(&kind.trim().to_lowercase().as_str())
}

/// `text`, which begins with `<` and has no `>`, if it is a LoRA's tag that was not closed.
fn open(text: &str) -> Option<String> {
    is_lora(text[1..].split_once(':')?.0).then(|| text.to_owned())
}

/// Parses the parameters of `tag`: the LoRA's name, its strength in the text encoders (default 1), and its strength in the
/// U-Net (default: the same); `te=` and `unet=` name them. `None` if a strength is not a finite number.
fn lora(values: &str, tag: String) -> Option<Tag> {
    let number = |text: &str| text.parse::<f32>().ok().filter(|strength| strength.is_finite());
    let mut values = values.split(':');
    let name = values.next()?.to_owned();
    let (named, placed): (Vec<&str>, Vec<&str>) = values.partition(|value| value.contains('='));
    let mut strengths = [None, None];
    for (strength, text) in strengths.iter_mut().zip(&placed) {
        *strength = Some(number(text)?);
    }
    let mut says_more = placed.len() > strengths.len();
    for (key, text) in named.iter().filter_map(|value| value.split_once('=')) {
        match key {
            "te" => strengths[0] = Some(number(text)?),
            "unet" => strengths[1] = Some(number(text)?),
            _ => says_more = true,
        }
    }
    let text_strength = strengths[0].unwrap_or(1.0);
    let strength = strengths[1].unwrap_or(text_strength);
    Some(Tag::Lora {
        name,
        strength,
        text_strength: (text_strength != strength).then_some(text_strength),
        says_more: says_more.then_some(tag),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_leave_the_prompt() {
        let mut prompt =
            "a cat <lora:ink:0.7>, <b> <LoRA:soft> <hypernet:x:1> 1 <2 <lora:w:0.5:1> <lora:much:x> <lora:open"
                .to_owned();
        let lora = |name: &str, strength, text_strength| Tag::Lora {
            name: name.to_owned(),
            strength,
            text_strength,
            says_more: None,
        };
        assert_eq!(
            take(&mut prompt),
            [
                lora("ink", 0.7, None),
                lora("soft", 1.0, None),
                Tag::Other("<hypernet:x:1>".to_owned()),
                lora("w", 1.0, Some(0.5)),
                Tag::WrongStrength("<lora:much:x>".to_owned()),
                Tag::Open("<lora:open".to_owned()),
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
            "<3: hearts>",
            "<:c>",
            "lora:ink>",
            "<<<",
            "> <lora",
            "a  <b>",
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
            let lora = Tag::Lora {
                name: "ink".to_owned(),
                strength: expected,
                text_strength: None,
                says_more: None,
            };
            assert_eq!(tags, [lora], "{text}");
        }
        for text in ["nan", "-inf", " 1", "1 ", "0,5", "1e99", "é"] {
            let tag = format!("<lora:ink:{text}>");
            assert_eq!(take(&mut tag.clone()), [Tag::WrongStrength(tag)]);
        }
    }

    /// In the web UI's order: text encoders, then the U-Net; or by name.
    #[test]
    fn a_tag_may_have_two_strengths() {
        for (text, strength, text_strength) in [
            ("<lora:ink>", 1.0, None),
            ("<lora:ink:0.8>", 0.8, None),
            ("<lora:ink:0.8:0.5>", 0.5, Some(0.8)),
            ("<lora:ink:0.5:0.5>", 0.5, None),
            ("<LORA:ink:0:1>", 1.0, Some(0.0)),
            ("<lyco:ink:0.8:0.5>", 0.5, Some(0.8)),
            ("<lora:ink:unet=0.5>", 0.5, Some(1.0)),
            ("<lora:ink:0.8:unet=0.5>", 0.5, Some(0.8)),
            ("<lora:ink:0.8:te=0.5>", 0.5, None),
            ("<lora:ink:te=0.5:unet=0.8>", 0.8, Some(0.5)),
        ] {
            let expected = Tag::Lora { name: "ink".to_owned(), strength, text_strength, says_more: None };
            assert_eq!(take(&mut text.to_owned()), [expected], "{text}");
        }
        for text in ["<lora:ink:0.8:x>", "<lora:ink:0.8:inf>", "<lora:ink:te=x>", "<lora:ink:unet=>"] {
            assert_eq!(take(&mut text.to_owned()), [Tag::WrongStrength(text.to_owned())]);
        }
        for text in ["<lora:ink:1:1:1>", "<lora:ink:1:dyn=4>"] {
            let tags = take(&mut text.to_owned());
            assert!(matches!(&tags[..], [Tag::Lora { says_more: Some(tag), .. }] if tag == text), "{tags:?}");
        }
    }

    /// Everything of a tag's form is a tag, so that none of it is read as words.
    #[test]
    fn tags_that_do_not_end_are_told_and_stay() {
        let mut prompt = "a <lora:deep:1 <lora:ink>, <cat:1, <Lora:x".to_owned();
        let open = |text: &str| Tag::Open(text.to_owned());
        let tags = take(&mut prompt);
        assert_eq!((tags.len(), &tags[0], &tags[2]), (3, &open("<lora:deep:1 "), &open("<Lora:x")));
        assert_eq!(prompt, "a <lora:deep:1, <cat:1, <Lora:x");
    }

    #[test]
    fn other_tags_are_told() {
        for tag in [
            "<hypernet:x:1>",
            "<Hypernet:x>",
            "<cat:1>",
            "<b:c>",
            "<segment:face,0.6>",
            "<lora-x:y>",
            "<my tag:1>",
            "<x:>",
        ] {
            assert_eq!(take(&mut format!("a {tag}")), [Tag::Other(tag.to_owned())]);
        }
        for tag in ["<lora:>", "<lora::0.8>", "<LyCO:>"] {
            assert_eq!(take(&mut format!("a {tag}")), [Tag::Nameless(tag.to_owned())]);
        }
        for text in ["1 < 2: <3:4>", "<:>", "< lora", "a <b"] {
            assert_eq!(take(&mut text.to_owned()), [], "{text}");
        }
    }
}
