//! How deep JSON is nested, found before anything parses it: parsers recurse.

/// Whether objects and lists in `json` are nested deeper than `depth_max`. What is not JSON is for the parser to say.
pub fn is_deeper(json: &str, depth_max: usize) -> bool {
    let mut depth = 0_usize;
    let mut bytes = json.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                if depth > depth_max {
                    return true;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => skip_text(&mut bytes),
            _ => {}
        }
    }
    false
}

fn skip_text(bytes: &mut std::str::Bytes<'_>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_count_and_those_in_texts_do_not() {
        assert!(!is_deeper(r#"{"a":[{"b":"[[[[\"[["}]}"#, 3));
        assert!(is_deeper(r#"{"a":[{"b":[]}]}"#, 3));
        assert!(!is_deeper("[][][][]", 1));
        assert!(is_deeper(&"[".repeat(1_000_000), 64));
        assert!(!is_deeper("]]]]}}}", 1));
    }
}
