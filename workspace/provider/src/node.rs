//! JSON trees of provider files, whose strings are templates.

use serde_json::Value as Json;

use crate::template::{Expr, Found, Scope, TemplateError, Text};

/// A JSON value with expressions in it.
#[derive(Debug)]
pub(crate) enum Node {
    Literal(Json),
    Expr(Expr),
    Text(Text),
    List(Vec<Self>),
    /// A member whose expression comes to `none` is left out. One called `*` stands for the members of the object it comes to,
    /// as far as the others are not called the same.
    Map(Vec<(String, Self)>),
}

impl Node {
    /// Reads a tree from a provider file. The error comes with the path to the string that is wrong.
    pub(crate) fn parse(source: toml::Value) -> Result<Self, (Vec<String>, TemplateError)> {
        let below = |key: String| {
            move |(mut path, error): (Vec<String>, TemplateError)| {
                path.insert(0, key);
                (path, error)
            }
        };
        Ok(match source {
            toml::Value::String(text) => {
                let text = Text::parse(&text).map_err(|error| (Vec::new(), error))?;
                match text.into_single() {
                    Ok(expr) => Self::Expr(expr),
                    Err(text) => Self::Text(text),
                }
            }
            toml::Value::Array(items) => Self::List(
                items
                    .into_iter()
                    .enumerate()
                    .map(|(index, item)| Self::parse(item).map_err(below(index.to_string())))
                    .collect::<Result<_, _>>()?,
            ),
            toml::Value::Table(table) => Self::Map(
                table
                    .into_iter()
                    .map(|(key, item)| {
                        let node = Self::parse(item).map_err(below(key.clone()))?;
                        if key == "*" && !matches!(node, Self::Expr(_)) {
                            let problem = "must be one expression that comes to an object".to_owned();
                            return Err((vec![key], TemplateError(problem)));
                        }
                        Ok((key, node))
                    })
                    .collect::<Result<_, _>>()?,
            ),
            toml::Value::Integer(number) => Self::Literal(number.into()),
            toml::Value::Float(number) => Self::Literal(number.into()),
            toml::Value::Boolean(truth) => Self::Literal(truth.into()),
            toml::Value::Datetime(time) => Self::Literal(time.to_string().into()),
        })
    }

    /// Whether any of it looks at this field of the payload.
    pub(crate) fn reads_field(&self, field: &str) -> bool {
        match self {
            Self::Literal(_) => false,
            Self::Expr(expr) => expr.reads_field(field),
            Self::Text(text) => text.reads_field(field),
            Self::List(items) => items.iter().any(|item| item.reads_field(field)),
            Self::Map(members) => members.iter().any(|(_, item)| item.reads_field(field)),
        }
    }

    /// Writes the tree as JSON.
    pub(crate) fn write(&self, scope: &Scope<'_>, out: &mut Vec<u8>) -> Result<(), TemplateError> {
        let json = |value: &Json, out: &mut Vec<u8>| {
            serde_json::to_writer(out, value).map_err(|_| TemplateError("cannot be written".to_owned()))
        };
        match self {
            Self::Literal(value) => json(value, out),
            Self::Expr(expr) => expr.eval(scope)?.write_json(out),
            Self::Text(text) => json(&Json::String(text.render(scope)?), out),
            Self::List(items) => {
                out.push(b'[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    item.write(scope, out)?;
                }
                out.push(b']');
                Ok(())
            }
            Self::Map(members) => write_members(members, scope, out),
        }
    }
}

fn write_members(
    members: &[(String, Node)],
    scope: &Scope<'_>,
    out: &mut Vec<u8>,
) -> Result<(), TemplateError> {
    let unwritable = |_| TemplateError("cannot be written".to_owned());
    let begin = |name: &str, out: &mut Vec<u8>| {
        if out.last() != Some(&b'{') {
            out.push(b',');
        }
        serde_json::to_writer(&mut *out, name).map_err(unwritable)?;
        out.push(b':');
        Ok::<_, TemplateError>(())
    };
    out.push(b'{');
    let mut written = Vec::new();
    for (name, node) in members.iter().filter(|(name, _)| name != "*") {
        let found = match node {
            Node::Expr(expr) => Some(expr.eval(scope)?),
            _ => None,
        };
        if found.as_ref().is_some_and(Found::is_none) {
            continue;
        }
        written.push(name.as_str());
        begin(name, out)?;
        match found {
            Some(found) => found.write_json(out)?,
            None => node.write(scope, out)?,
        }
    }
    if let Some((_, Node::Expr(expr))) = members.iter().find(|(name, _)| name == "*") {
        match expr.eval(scope)?.to_json()?.as_ref() {
            Json::Null => {}
            Json::Object(others) => {
                for (name, value) in others {
                    if !written.contains(&name.as_str()) {
                        begin(name, out)?;
                        serde_json::to_writer(&mut *out, value).map_err(unwritable)?;
                    }
                }
            }
            _ => return Err(TemplateError("* is not an object".to_owned())),
        }
    }
    out.push(b'}');
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn scope_json(value: &Json) -> (Json, Json, Json) {
        (json!({"v": value, "none": null}), json!({}), json!({"id": "e"}))
    }

    fn written(source: &str, value: &Json) -> Result<String, TemplateError> {
        let tree: toml::Table = toml::from_str(source).unwrap();
        let node = Node::parse(toml::Value::Table(tree)).map_err(|(_, error)| error)?;
        let (payload, account, event) = scope_json(value);
        let mut out = Vec::new();
        node.write(&Scope::new(&payload, &account, &event), &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn values_keep_their_types_and_none_is_left_out() {
        let source = r#"
            a = "{{ payload.v }}"
            b = "{{ payload.none }}"
            c = "id {{ event.id }}"
            d = "{{ {'x': {'y': payload.v}} }}"
            e = [1, "{{ payload.v | length }}", true]
            f = "{{ none if payload.v else 1 }}"
        "#;
        assert_eq!(
            written(source, &json!(["x"])).unwrap(),
            r#"{"a":["x"],"c":"id e","d":{"x":{"y":["x"]}},"e":[1,1,true]}"#
        );
    }

    #[test]
    fn a_star_stands_for_the_members_of_an_object() {
        let source = "'*' = '{{ payload.v }}'\na = 'mine'\nb = '{{ payload.none }}'";
        for (value, expected) in [
            (
                json!({"a": "x", "b": 1, "c\"": [2]}),
                Some(r#"{"a":"mine","b":1,"c\"":[2]}"#),
            ),
            (json!({}), Some(r#"{"a":"mine"}"#)),
            (json!(null), Some(r#"{"a":"mine"}"#)),
            (json!(["x"]), None),
            (json!("x"), None),
        ] {
            assert_eq!(written(source, &value).ok().as_deref(), expected, "{value}");
        }
        assert_eq!(
            written("'*' = '{{ payload.v }}'", &json!({"a": 1})).unwrap(),
            r#"{"a":1}"#
        );
        assert!(written("'*' = 'text'", &json!({})).is_err());
    }

    #[test]
    fn what_is_not_defined_is_an_error() {
        for source in [
            "a = \"{{ payload.nope }}\"",
            "a = \"{{ payload.nope | length }}\"",
            "a = \"{{ payload['nope'] }}\"",
            "a = \"{{ nope.v }}\"",
            "a = \"{{ payload.v | nope }}\"",
            "a = \"{{ payload.v\"",
            "a = \"{% if payload.v %}\"",
        ] {
            assert!(written(source, &json!("x")).is_err(), "{source}");
        }
    }

    proptest! {
        #[test]
        fn no_value_leaves_its_place(value in "\\.{0,3}|\\PC*|[\"\\\\{}%.:/?#&=\r\n\u{0}]{0,8}") {
            let json = json!(value);
            let out = written("a = \"{{ payload.v }}\"\nb = \"x{{ payload.v }}y\"", &json).unwrap();
            let back: Json = serde_json::from_str(&out).unwrap();
            prop_assert_eq!(back, json!({"a": value, "b": format!("x{value}y")}));

            let (payload, account, event) = scope_json(&json);
            let path = Text::parse("/a/{{ payload.v }}/b").unwrap();
            let Ok(path) = path.render_path(&Scope::new(&payload, &account, &event)) else {
                prop_assert!(value.chars().all(|c| c == '.'));
                return Ok(());
            };
            let url = url::Url::parse(&format!("http://h.example{path}")).unwrap();
            prop_assert_eq!(url.path_segments().unwrap().count(), 3);
            prop_assert!(url.query().is_none() && url.fragment().is_none());
            prop_assert_eq!(url.host_str(), Some("h.example"));
        }
    }
}
