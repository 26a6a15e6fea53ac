//! Settings: every key has its comment, a field that reads it, and a place in the manual; and every field has its key.

use std::collections::BTreeMap;

use syn::{Fields, Item, ItemStruct, Type, spanned::Spanned as _};
use toml::{Table, Value};

use crate::tree::Tree;

/// Where the parts of the manual are put together.
const MANUAL: &str = "posthaste/src/configuration.rs";

/// Checks every settings fragment.
pub fn check(tree: &Tree) -> Result<Vec<String>, String> {
    let manual = tree.files.get(MANUAL).map_or("", String::as_str);
    let mut findings = Vec::new();
    for (path, text) in &tree.files {
        let Some(folder) = path.strip_suffix("/settings.toml") else {
            continue;
        };
        findings.extend(explained(path, text));
        let structs = Structs::read(tree, folder);
        match toml::from_str::<Table>(text) {
            Ok(table) => findings.extend(compare(path, &table, &structs)),
            Err(error) => findings.push(format!("{path}: {error}")),
        }
        let name = crate_name(tree, folder).replace('-', "_");
        let is_shown = [format!("{name}::DEFAULTS"), format!("{name}::settings::DEFAULTS")]
            .iter()
            .any(|part| manual.contains(part.as_str()));
        if !is_shown {
            findings.push(format!(
                "{path}: {MANUAL} does not put it into the manual; add {name}::DEFAULTS to PARTS"
            ));
        }
    }
    Ok(findings)
}

fn crate_name(tree: &Tree, folder: &str) -> String {
    let manifest = tree.files.get(&format!("{folder}/Cargo.toml"));
    let name = manifest.and_then(|text| {
        let table: Table = toml::from_str(text).ok()?;
        Some(table.get("package")?.get("name")?.as_str()?.to_owned())
    });
    name.unwrap_or_else(|| folder.to_owned())
}

/// Each key has a comment on the line above it, or shares the one of the key above it without a blank line between.
fn explained(path: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let mut explained = false;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('#') {
            explained = true;
        } else if line.is_empty() || line.starts_with('[') {
            explained = false;
        } else if line.contains('=') && !explained {
            findings.push(format!(
                "{path}:{}: say in a comment above it what the key is for",
                number + 1
            ));
        }
    }
    findings
}

/// The structs of a crate, by name, and where they are.
#[derive(Default)]
struct Structs(BTreeMap<String, (String, ItemStruct)>);

impl Structs {
    fn read(tree: &Tree, folder: &str) -> Self {
        let mut structs = Self::default();
        let sources = format!("{folder}/src/");
        for (path, text) in tree.rust().filter(|(path, _)| path.starts_with(&sources)) {
            // `Settings` first of all: only files that may hold some are parsed.
            if text.contains("Settings") || path.ends_with("/settings.rs") {
                structs.add(path, text);
            }
        }
        structs
    }

    fn add(&mut self, path: &str, text: &str) {
        // What is not Rust is told by the check of the sources.
        let Ok(file) = syn::parse_file(text) else { return };
        for item in file.items {
            if let Item::Struct(item) = item {
                let name = item.ident.to_string();
                // Of two with one name the one in `settings.rs` is meant.
                if path.ends_with("settings.rs") || !self.0.contains_key(&name) {
                    self.0.insert(name, (path.to_owned(), item));
                }
            }
        }
    }
}

fn compare(path: &str, table: &Table, structs: &Structs) -> Vec<String> {
    let mut findings = Vec::new();
    // One table is the crate's own; several are read by one struct together.
    match table.iter().next() {
        Some((name, Value::Table(own))) if table.len() == 1 => {
            compare_table(path, name, own, "Settings", structs, &mut findings);
        }
        _ => compare_table(path, "", table, "Settings", structs, &mut findings),
    }
    findings
}

fn compare_table(
    path: &str,
    key: &str,
    table: &Table,
    name: &str,
    structs: &Structs,
    findings: &mut Vec<String>,
) {
    let Some((source, item)) = structs.0.get(name) else {
        // A map: it takes the user's own keys.
        if name == "Settings" {
            findings.push(format!("{path}: no struct Settings reads it"));
        }
        return;
    };
    let place = format!("{source}:{}", item.span().start().line);
    if !serde_says(&item.attrs, "deny_unknown_fields") {
        findings.push(format!(
            "{place}: {name} takes keys that do not exist; say #[serde(deny_unknown_fields)]"
        ));
    }
    let Fields::Named(fields) = &item.fields else {
        return;
    };
    let mut known = Vec::new();
    for field in &fields.named {
        let Some(ident) = &field.ident else { continue };
        let field_name = ident.to_string();
        let place = format!("{source}:{}", ident.span().start().line);
        let type_name = type_name(&field.ty);
        if type_name == "Option" || serde_says(&field.attrs, "default") {
            findings.push(format!(
                "{place}: {field_name} has a default in the code; its default is the one in {path}"
            ));
        }
        match table.get(&field_name) {
            None => findings.push(format!(
                "{place}: {field_name} has no line in {path}; write its key there with a comment and its default"
            )),
            Some(Value::Table(inner)) => {
                let key = if key.is_empty() { field_name.clone() } else { format!("{key}.{field_name}") };
                compare_table(path, &key, inner, &type_name, structs, findings);
            }
            Some(_) => {}
        }
        known.push(field_name);
    }
    for unread in table.keys().filter(|unread| !known.contains(unread)) {
        findings.push(format!(
            "{path}: nothing reads {unread} of [{key}]; give {name} ({place}) a field or delete it"
        ));
    }
}

fn type_name(of: &Type) -> String {
    let Type::Path(path) = of else {
        return String::new();
    };
    let last = path.path.segments.last();
    last.map_or_else(String::new, |segment| segment.ident.to_string())
}

fn serde_says(attributes: &[syn::Attribute], word: &str) -> bool {
    attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("serde"))
        .any(|attribute| {
            let mut says = false;
            // What cannot be read here, serde itself refuses.
            let _ = attribute.parse_nested_meta(|meta| {
                says |= meta.path.is_ident(word);
                if meta.input.peek(syn::Token![=]) {
                    meta.value()?.parse::<syn::Expr>()?;
                }
                Ok(())
            });
            says
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_without_a_comment_is_found() {
        assert!(explained("x", "# The table.\n[x]\n# Why.\na = 1\nb = 2\n").is_empty());
        assert_eq!(explained("x", "[x]\na = 1\n").len(), 1);
        assert_eq!(explained("x", "[x]\n# Why.\na = 1\n\nb = 2\n").len(), 1);
    }

    fn compared(settings: &str, code: &str) -> Vec<String> {
        let mut structs = Structs::default();
        structs.add("x/src/settings.rs", code);
        compare("x/settings.toml", &toml::from_str(settings).unwrap(), &structs)
    }

    #[test]
    fn keys_and_fields_are_the_same() {
        const INNER: &str = "#[serde(deny_unknown_fields)] struct Inner { b: u8 }";
        let with = |fields: &str| {
            format!("#[serde(deny_unknown_fields)]\npub struct Settings {{ {fields} }}\n{INNER}")
        };
        let good = with("pub a: u8, pub inner: crate::Inner, pub open: BTreeMap<String, String>");
        let settings = "[x]\na = 1\n[x.inner]\nb = 1\n[x.open]\nanything = 1\n";
        assert_eq!(compared(settings, &good), Vec::<String>::new());
        for (settings, code, expected) in [
            (
                "[x]\nb = 1\n",
                with("a: u8, b: u8"),
                "x/src/settings.rs:2: a has no line in x/settings.toml",
            ),
            ("[x]\na = 1\nb = 2\n", with("a: u8"), "nothing reads b of [x]"),
            (
                "[x.inner]\nb = 1\nc = 1\n",
                with("inner: Inner"),
                "nothing reads c of [x.inner]",
            ),
            ("[x.inner]\n", with("inner: Inner"), "b has no line"),
            (
                "[x]\na = 1\n",
                with("a: Option<u8>"),
                "a has a default in the code",
            ),
            (
                "[x]\na = 1\n",
                with("#[serde(default = \"one\")] a: u8"),
                "a has a default in the code",
            ),
            (
                "[x]\na = 1\n",
                "pub struct Settings { a: u8 }".to_owned(),
                "takes keys that do not exist",
            ),
            (
                "[x]\na = 1\n",
                "pub struct Others { a: u8 }".to_owned(),
                "no struct Settings",
            ),
        ] {
            let findings = compared(settings, &code);
            assert!(
                findings.len() == 1 && findings[0].contains(expected),
                "{expected}: {findings:?}"
            );
        }
        let two = "[x]\na = 1\n[y]\nz = 1\n";
        let root = "#[serde(deny_unknown_fields)] struct Settings { x: X, y: Map } #[serde(deny_unknown_fields)] struct X { a: u8 }";
        assert_eq!(compared(two, root), Vec::<String>::new());
    }
}
