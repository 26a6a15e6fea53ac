//! What a provider file says of a request's body: a form or JSON, and where the files of an email go in it.

use std::collections::BTreeMap;

use posthaste_event::payload::Disposition;

use crate::{
    file::{Misplaced, at},
    node::Node,
    template::{TemplateError, Text},
};

/// What a request carries.
#[derive(Debug)]
pub(crate) enum Body {
    Form(Form),
    Json(Node),
}

/// A form's fields, and those that carry an email's files.
#[derive(Debug)]
pub(crate) struct Form {
    pub(crate) fields: Vec<(String, Text)>,
    pub(crate) files: Vec<(String, Disposition)>,
}

impl Body {
    /// Whether files that go with an email have a place in it.
    pub(crate) fn takes_files(&self) -> bool {
        match self {
            Self::Form(form) => Disposition::ALL
                .iter()
                .all(|wanted| form.files.iter().any(|(_, disposition)| disposition == wanted)),
            Self::Json(node) => node.reads_field("attachments"),
        }
    }
}

/// Reads the parts of `[request]` that are about the body.
pub(crate) fn body(
    form: Option<BTreeMap<String, String>>,
    files: BTreeMap<String, Disposition>,
    json: Option<toml::Value>,
) -> Result<Body, Misplaced> {
    if form.is_none() && !files.is_empty() {
        return Err(at(&["request", "files"])(TemplateError(
            "goes with `form` only; in `json` an expression with payload.attachments says where files go"
                .to_owned(),
        )));
    }
    match (form, json) {
        (Some(form), None) => {
            let fields = form.into_iter().map(|(key, value)| {
                let text = Text::parse(&value).map_err(at(&["request", "form", &key]))?;
                Ok((key, text))
            });
            Ok(Body::Form(Form {
                fields: fields.collect::<Result<_, _>>()?,
                files: files.into_iter().collect(),
            }))
        }
        (None, Some(json)) => Node::parse(json).map(Body::Json).map_err(|(mut path, error)| {
            path.splice(0..0, ["request".to_owned(), "json".to_owned()]);
            (path, error)
        }),
        _ => Err(at(&["request"])(TemplateError(
            "needs either `form` or `json`".to_owned(),
        ))),
    }
}
