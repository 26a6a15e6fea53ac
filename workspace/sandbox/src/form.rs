//! Forms with files (`multipart/form-data`, RFC 7578), read as far as their providers need it.

use std::collections::BTreeMap;

/// A file of a form.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct File {
    /// The form's field that it is in.
    pub(crate) field: String,
    pub(crate) name: String,
    pub(crate) bytes: usize,
}

/// The values of a form's fields.
pub(crate) type Fields = BTreeMap<String, Vec<String>>;

/// The fields and the files of a form; `None` if it is none.
pub(crate) fn read(content_type: &str, body: &[u8]) -> Option<(Fields, Vec<File>)> {
    let (_, boundary) = content_type.split_once("boundary=")?;
    let boundary = boundary.split(';').next()?.trim().trim_matches('"');
    let delimiter = format!("\r\n--{boundary}");
    let mut fields = Fields::new();
    let mut files = Vec::new();
    // The first one stands at the very beginning.
    let mut rest = body.strip_prefix(&delimiter.as_bytes()[2..])?;
    while let Some(part) = rest.strip_prefix(b"\r\n") {
        let end = position(part, delimiter.as_bytes())?;
        let (part, after) = part.split_at(end);
        let (head, value) = part.split_at(position(part, b"\r\n\r\n")?);
        let (head, value) = (std::str::from_utf8(head).ok()?, &value[4..]);
        let line = head.split("\r\n").find(|line| {
            line.to_ascii_lowercase()
                .starts_with("content-disposition: form-data;")
        })?;
        let field = parameter(line, "name")?;
        match parameter(line, "filename") {
            Some(name) => files.push(File {
                field,
                name,
                bytes: value.len(),
            }),
            None => {
                let value = String::from_utf8(value.to_vec()).ok()?;
                fields.entry(field).or_default().push(value);
            }
        }
        rest = after.get(delimiter.len()..)?;
    }
    rest.starts_with(b"--").then_some((fields, files))
}

fn position(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

fn parameter(line: &str, name: &str) -> Option<String> {
    let (_, after) = line.split_once(&format!("; {name}=\""))?;
    let (value, _) = after.split_once('"')?;
    Some(
        value
            .replace("%22", "\"")
            .replace("%0D", "\r")
            .replace("%0A", "\n"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: &str = "multipart/form-data; boundary=\"b-1\"";

    #[test]
    fn fields_and_files_are_told_apart() {
        let body = b"--b-1\r\nContent-Disposition: form-data; name=\"to\"\r\n\r\na\r\n--b-1\r\nContent-Disposition: form-data; \
                     name=\"to\"\r\n\r\n\r\n--b-1\r\nContent-Disposition: form-data; name=\"attachment\"; filename=\"a%22.txt\"\r\n\
                     Content-Type: text/plain\r\n\r\n\xff\r\n--b\r\n--b-1--\r\n";
        let (fields, files) = read(KIND, body).unwrap();
        assert_eq!(fields["to"], ["a", ""]);
        let file = File {
            field: "attachment".to_owned(),
            name: "a\".txt".to_owned(),
            bytes: 6,
        };
        assert_eq!(files, [file]);
    }

    #[test]
    fn what_is_no_form_is_none() {
        for body in [
            "",
            "--b-1",
            "--b-1\r\n",
            "--b-1--x",
            "--b-1\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nx",
            "--b-1\r\nContent-Disposition: form-data; name=\"a\"\r\nx\r\n--b-1--",
            "--b-1\r\n\r\nx\r\n--b-1--",
        ] {
            let read = read(KIND, body.as_bytes());
            assert!(read.is_none() || body == "--b-1--x", "{body:?}: {read:?}");
        }
        assert!(read("multipart/form-data", b"--b-1--").is_none());
    }
}
