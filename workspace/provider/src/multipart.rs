//! Forms with files (RFC 7578), as browsers write them.

use std::fmt::Write as _;

/// A form that is being written.
pub(crate) struct Multipart {
    boundary: String,
    out: Vec<u8>,
}

impl Multipart {
    pub(crate) fn new() -> Self {
        Self {
            // Drawn, so that nobody can write a file or a text that ends before its end.
            boundary: format!("posthaste-{}", uuid::Uuid::new_v4().simple()),
            out: Vec::with_capacity(1_024),
        }
    }

    /// Adds a field.
    pub(crate) fn field(&mut self, name: &str, value: &str) {
        let head = format!("Content-Disposition: form-data; name=\"{}\"", quoted(name));
        self.part(&head, value.as_bytes());
    }

    /// Adds a file.
    pub(crate) fn file(&mut self, name: &str, filename: &str, content_type: &str, bytes: &[u8]) {
        let head = format!(
            "Content-Disposition: form-data; name=\"{}\"; filename=\"{}\"\r\nContent-Type: {}",
            quoted(name),
            quoted(filename),
            quoted(content_type)
        );
        self.part(&head, bytes);
    }

    fn part(&mut self, head: &str, bytes: &[u8]) {
        let mut before = String::with_capacity(head.len() + self.boundary.len() + 8);
        before.push_str("--");
        before.push_str(&self.boundary);
        before.push_str("\r\n");
        before.push_str(head);
        before.push_str("\r\n\r\n");
        self.out.extend_from_slice(before.as_bytes());
        self.out.extend_from_slice(bytes);
        self.out.extend_from_slice(b"\r\n");
    }

    /// The content type, and the whole form.
    pub(crate) fn finish(mut self) -> (String, Vec<u8>) {
        self.out
            .extend_from_slice(format!("--{}--\r\n", self.boundary).as_bytes());
        (
            format!("multipart/form-data; boundary={}", self.boundary),
            self.out,
        )
    }
}

/// Escaped as the HTML standard says ("multipart/form-data encoding algorithm"), and other control characters likewise.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '"' || c.is_ascii_control() {
            // Writing to a string never fails.
            let _written = write!(out, "%{:02X}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_leaves_its_place() {
        let hostile = "a\"; name=\"to\"\r\n\r\neve@example.com";
        let mut form = Multipart::new();
        form.field(hostile, "v");
        form.file("attachment", hostile, hostile, b"\r\n--x\r\n");
        let (kind, body) = form.finish();
        let boundary = kind.split_once("boundary=").unwrap().1.to_owned();
        let text = String::from_utf8(body).unwrap();
        let parts: Vec<&str> = text.split(&format!("--{boundary}")).collect();
        assert_eq!(parts.len(), 4, "{text}");
        for part in &parts[1..3] {
            let head = part.split("\r\n\r\n").next().unwrap();
            assert!(!head.contains("name=\"to\""), "{head}");
            assert!(
                head.lines()
                    .filter(|line| !line.is_empty())
                    .all(|line| line.starts_with("Content-"))
            );
        }
        assert!(parts[2].ends_with("\r\n\r\n\r\n--x\r\n\r\n"), "{:?}", parts[2]);
    }

    #[test]
    fn each_form_has_a_boundary_of_its_own() {
        assert_ne!(Multipart::new().boundary, Multipart::new().boundary);
    }
}
