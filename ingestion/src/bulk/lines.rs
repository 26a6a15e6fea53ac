//! Lines out of a body that comes in pieces, with bounded memory.

use axum::body::Body;
use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;

/// One line, without its end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A line that is not blank.
    Item(Bytes),
    /// A line of more bytes than are taken; they are not kept.
    TooLong,
}

/// Cuts pieces into lines. Holds at most one unfinished line and the piece that is being cut.
#[derive(Debug)]
pub(crate) struct Lines {
    bytes_max: usize,
    /// What has come and was not given out.
    held: BytesMut,
    /// So much of it was searched for the line's end.
    searched: usize,
    /// The beginning of this line was thrown away.
    is_too_long: bool,
}

impl Lines {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            held: BytesMut::new(),
            searched: 0,
            is_too_long: false,
        }
    }

    /// Takes a piece.
    pub(crate) fn push(&mut self, piece: &[u8]) {
        self.held.extend_from_slice(piece);
    }

    /// The next whole line, if there is one. After `None` more has to be pushed, or [`Lines::last`] called.
    pub(crate) fn next(&mut self) -> Option<Line> {
        loop {
            let Some(end) = self.held[self.searched..].iter().position(|byte| *byte == b'\n') else {
                if self.is_too_long || self.held.len() > self.bytes_max {
                    self.is_too_long = true;
                    self.held.clear();
                }
                self.searched = self.held.len();
                return None;
            };
            let line = self.held.split_to(self.searched + end).freeze();
            self.held.advance(1);
            self.searched = 0;
            if let Some(line) = self.finish(line) {
                return Some(line);
            }
        }
    }

    /// What stands after the last line's end, when nothing more comes.
    pub(crate) fn last(&mut self) -> Option<Line> {
        self.searched = 0;
        let line = self.held.split().freeze();
        self.finish(line)
    }

    fn finish(&mut self, line: Bytes) -> Option<Line> {
        if std::mem::take(&mut self.is_too_long) || line.len() > self.bytes_max {
            return Some(Line::TooLong);
        }
        (!line.trim_ascii().is_empty()).then_some(Line::Item(line))
    }
}

/// The lines of a body, read when they are asked for.
#[derive(Debug)]
pub(crate) struct BodyLines {
    body: Body,
    lines: Lines,
    is_over: bool,
}

/// A body that broke off, paused for too long, or cannot be decompressed.
#[derive(Debug)]
pub(crate) struct BrokeOff;

impl BodyLines {
    /// Lines of at most `bytes_max` bytes each.
    pub(crate) fn new(body: Body, bytes_max: usize) -> Self {
        Self {
            body,
            lines: Lines::new(bytes_max),
            is_over: false,
        }
    }

    /// The next line; `None` when there are no more.
    pub(crate) async fn next(&mut self) -> Result<Option<Line>, BrokeOff> {
        loop {
            if let Some(line) = self.lines.next() {
                return Ok(Some(line));
            }
            if self.is_over {
                return Ok(self.lines.last());
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.lines.push(&frame.into_data().unwrap_or_default()),
                None => self.is_over = true,
                Some(Err(_)) => return Err(BrokeOff),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &[u8], piece_bytes: usize) -> Vec<Line> {
        let mut lines = Lines::new(8);
        let mut all = Vec::new();
        for piece in text.chunks(piece_bytes) {
            lines.push(piece);
            all.extend(std::iter::from_fn(|| lines.next()));
        }
        all.extend(lines.last());
        all
    }

    #[test]
    fn lines_are_the_same_however_the_pieces_fall() {
        let text = b"{\"a\":1}\r\n\n   \n{}\n12345678\n123456789\n{\"b\":22222222222222222222222}\nend";
        let item = |text: &'static str| Line::Item(Bytes::from_static(text.as_bytes()));
        let expected = vec![
            item("{\"a\":1}\r"),
            item("{}"),
            item("12345678"),
            Line::TooLong,
            Line::TooLong,
            item("end"),
        ];
        for piece_bytes in 1..=text.len() {
            assert_eq!(cut(text, piece_bytes), expected, "{piece_bytes}");
        }
    }

    #[test]
    fn a_line_without_end_is_not_kept() {
        let mut lines = Lines::new(8);
        for _ in 0..1_000 {
            lines.push(b"0123456789");
            assert_eq!(lines.next(), None);
            assert!(lines.held.is_empty());
        }
        assert_eq!(lines.last(), Some(Line::TooLong));
        assert_eq!(lines.last(), None);
    }
}
