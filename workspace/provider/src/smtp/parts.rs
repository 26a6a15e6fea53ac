//! What stands below a mail's headers: its text, the same as HTML, and the files that go with it (RFC 2045, 2183, 2387).

use lettre::message::{
    Body, MultiPart, SinglePart,
    header::{ContentDisposition, ContentId, ContentTransferEncoding, ContentType},
};
use posthaste_event::payload::{Attachment, Disposition, Email};

use super::mail::crlf;

/// One part, or several in one.
pub(super) enum Part {
    One(SinglePart),
    Several(MultiPart),
}

/// Everything below the headers. The boundaries are the same for every repetition of a send.
///
/// # Errors
/// The field that cannot be sent, and why. Never quotes a value.
pub(super) fn whole(email: &Email, key: &str) -> Result<Part, String> {
    let has_html = email.html.is_some();
    let mut shown = Vec::new();
    let mut offered = Vec::new();
    for (index, attachment) in email.attachments.iter().enumerate() {
        let part = file(attachment).map_err(|problem| format!("attachments[{index}].{problem}"))?;
        if has_html && attachment.disposition == Disposition::Inline {
            shown.push(part);
        } else {
            offered.push(part);
        }
    }
    let html = email.html.as_deref().map(|html| {
        let html = Part::One(SinglePart::html(crlf(html)));
        // The HTML and what it shows are one thing.
        together(html, shown, || {
            MultiPart::related().boundary(boundary(key, "related"))
        })
    });
    let text = || SinglePart::plain(crlf(email.body.as_deref().unwrap_or_default()));
    let said = match (html, &email.body) {
        (Some(html), Some(_)) => {
            let both = MultiPart::alternative()
                .boundary(boundary(key, ""))
                .singlepart(text());
            Part::Several(match html {
                Part::One(html) => both.singlepart(html),
                Part::Several(html) => both.multipart(html),
            })
        }
        (Some(html), None) => html,
        (None, _) => Part::One(text()),
    };
    Ok(together(said, offered, || {
        MultiPart::mixed().boundary(boundary(key, "mixed"))
    }))
}

/// A part and what goes with it; by itself if nothing does.
fn together(
    first: Part,
    others: Vec<SinglePart>,
    outer: impl FnOnce() -> lettre::message::MultiPartBuilder,
) -> Part {
    if others.is_empty() {
        return first;
    }
    let whole = match first {
        Part::One(part) => outer().singlepart(part),
        Part::Several(part) => outer().multipart(part),
    };
    Part::Several(others.into_iter().fold(whole, MultiPart::singlepart))
}

fn file(file: &Attachment) -> Result<SinglePart, String> {
    // Checked at intake; this is the second time, for records that somebody else wrote.
    if [
        Some(&file.filename),
        Some(&file.content_type),
        file.content_id.as_ref(),
    ]
    .into_iter()
    .flatten()
    .any(|text| text.chars().any(char::is_control))
    {
        return Err("filename, contentType or contentId holds a control character".to_owned());
    }
    let bytes = file.bytes().ok_or("content is not there, or is not base64")?;
    let kind =
        ContentType::parse(&file.content_type).map_err(|_| "contentType is no media type".to_owned())?;
    let disposition = match file.disposition {
        Disposition::Attachment => ContentDisposition::attachment(&file.filename),
        Disposition::Inline => ContentDisposition::inline_with_name(&file.filename),
    };
    let mut part = SinglePart::builder().header(kind).header(disposition);
    if let Some(id) = &file.content_id {
        if id.contains(['<', '>', ' ']) {
            return Err("contentId is no part of an id".to_owned());
        }
        part = part.header(ContentId::from(format!("<{id}>")));
    }
    let body = Body::new_with_encoding(bytes, ContentTransferEncoding::Base64);
    let body = body.map_err(|_| "content cannot be encoded".to_owned())?;
    Ok(part.body(body))
}

/// The same for every repetition of a send; 128 bits of a hash are in no text by chance.
fn boundary(key: &str, of: &str) -> String {
    let text = match of {
        "" => key.to_owned(),
        of => format!("{key}/{of}"),
    };
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    let hash = hash.as_ref()[..16].iter().map(|byte| format!("{byte:02x}"));
    format!("=_{}", hash.collect::<String>())
}
