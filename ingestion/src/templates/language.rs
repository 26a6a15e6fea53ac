//! The template language: minijinja with filters of our own, each bounded, and nothing that loads, captures or calls.
//!
//! One message has one [`Allowance`]: bytes that it may write, and bytes that its filters may go through. Each text has its
//! steps. Values are escaped as fits where they go; a list or an object is never printed.

use std::{
    cell::Cell,
    io::{self, Write},
};

use minijinja::{
    Environment, Error, ErrorKind, Output, State, UndefinedBehavior,
    value::{Value, ValueKind},
};

/// Names of filters.
pub(super) const FILTERS: [&str; 15] = [
    "upper",
    "lower",
    "trim",
    "capitalize",
    "title",
    "default",
    "length",
    "first",
    "last",
    "join",
    "replace",
    "truncate",
    "round",
    "plus",
    "times",
];

/// Names of tests.
pub(super) const TESTS: [&str; 5] = ["defined", "undefined", "none", "number", "string"];

/// Steps of one text, and of all texts of a message.
const STEPS_MAX: u64 = 10_000;
const STEPS_SUM_MAX: u64 = 100_000;
/// Longest text that a filter takes or gives, in bytes.
const FILTERED_BYTES_MAX: usize = 16 << 10;
/// Bytes that the filters of one message go through.
const FILTERED_BYTES_SUM_MAX: usize = 4 << 20;

thread_local! {
    /// Rendering is not interrupted, so what a message may still use is the thread's.
    static LEFT: Cell<Left> = const { Cell::new(Left::NOTHING) };
}

/// What a message may still use.
#[derive(Clone, Copy)]
struct Left {
    bytes: usize,
    /// Bytes for filters to go through.
    filtered: usize,
    steps: u64,
}

impl Left {
    const NOTHING: Self = Self {
        bytes: 0,
        filtered: 0,
        steps: 0,
    };
}

/// How a value is escaped: the first letter of a text's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Escape {
    /// As it is.
    Plain,
    /// For HTML.
    Html,
    /// For Slack, where `<`, `>` and `&` make links and mentions
    /// (<https://docs.slack.dev/messaging/formatting-message-text#escaping>).
    Slack,
}

impl Escape {
    const fn letter(self) -> char {
        match self {
            Self::Plain => 'p',
            Self::Html => 'h',
            Self::Slack => 's',
        }
    }

    /// The name of the text with this number.
    pub(super) fn name(self, number: usize) -> String {
        format!("{}{number}", self.letter())
    }
}

/// Renders on this thread while it lives.
pub(super) struct Allowance(());

impl Allowance {
    /// `bytes_max` is what a message may come to.
    pub(super) fn new(bytes_max: usize) -> Self {
        LEFT.set(Left {
            bytes: bytes_max,
            filtered: FILTERED_BYTES_SUM_MAX,
            steps: STEPS_SUM_MAX,
        });
        Self(())
    }
}

impl Drop for Allowance {
    fn drop(&mut self) {
        LEFT.set(Left::NOTHING);
    }
}

/// An environment without texts.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    environment.set_fuel(Some(STEPS_MAX));
    environment.set_recursion_limit(32);
    environment.set_formatter(print);
    environment.add_filter("upper", |text: String| on(text, |text| text.to_uppercase()));
    environment.add_filter("lower", |text: String| on(text, |text| text.to_lowercase()));
    environment.add_filter("trim", |text: String| on(text, |text| text.trim().to_owned()));
    environment.add_filter("capitalize", |text: String| on(text, capitalized));
    environment.add_filter("title", |text: String| on(text, title));
    environment.add_filter("default", or_default);
    environment.add_filter("length", length);
    environment.add_filter("first", |value: Value| end(&value, false));
    environment.add_filter("last", |value: Value| end(&value, true));
    environment.add_filter("join", join);
    environment.add_filter("replace", replace);
    environment.add_filter("truncate", truncate);
    environment.add_filter("round", round);
    environment.add_filter("plus", |a: Value, b: Value| {
        calculate(&a, &b, i64::checked_add, |a, b| a + b)
    });
    environment.add_filter("times", |a: Value, b: Value| {
        calculate(&a, &b, i64::checked_mul, |a, b| a * b)
    });
    environment.add_test("defined", |value: &Value| !value.is_undefined());
    environment.add_test("undefined", |value: &Value| value.is_undefined());
    environment.add_test("none", |value: &Value| value.is_none());
    environment.add_test("number", |value: &Value| value.is_number());
    environment.add_test("string", |value: &Value| value.as_str().is_some());
    environment
}

/// Renders one text within the [`Allowance`] of its message.
pub(super) fn render(
    environment: &Environment<'static>,
    name: &str,
    values: &Value,
) -> Result<String, Error> {
    let mut written = Bounded(Vec::new());
    let outcome = environment
        .get_template(name)?
        .render_captured_to(values.clone(), &mut written);
    match outcome {
        Ok(done) => {
            let (steps, _) = done.state().fuel_levels().unwrap_or_default();
            let mut left = LEFT.get();
            left.steps = left
                .steps
                .checked_sub(steps)
                .ok_or_else(|| Error::from(ErrorKind::OutOfFuel))?;
            LEFT.set(left);
            Ok(String::from_utf8_lossy(&written.0).into_owned())
        }
        Err(error) if error.kind() == ErrorKind::WriteFailure => Err(refused("comes to too much text")),
        Err(error) => Err(error),
    }
}

struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut left = LEFT.get();
        left.bytes = left
            .bytes
            .checked_sub(bytes.len())
            .ok_or_else(|| io::Error::other("too much"))?;
        LEFT.set(left);
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn refused(problem: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem)
}

fn missing() -> Error {
    Error::from(ErrorKind::UndefinedError)
}

fn print(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    if value.is_undefined() || value.is_none() {
        return Err(missing());
    }
    let Some(text) = value.as_str() else {
        return match value.kind() {
            // As JSON has it.
            ValueKind::Bool => out.write_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => write!(out, "{value}"),
            _ => {
                return Err(refused(
                    "a list or an object cannot be printed; a loop or the filter join can",
                ));
            }
        }
        .map_err(Error::from);
    };
    match state.name().bytes().next() {
        Some(b'h') => escaped(out, text, |c| {
            Some(match c {
                '&' => "&amp;",
                '<' => "&lt;",
                '>' => "&gt;",
                '"' => "&quot;",
                '\'' => "&#x27;",
                _ => return None,
            })
        }),
        Some(b's') => escaped(out, text, |c| {
            Some(match c {
                '&' => "&amp;",
                '<' => "&lt;",
                '>' => "&gt;",
                _ => return None,
            })
        }),
        _ => out.write_str(text).map_err(Error::from),
    }
}

fn escaped(out: &mut Output, text: &str, escape: impl Fn(char) -> Option<&'static str>) -> Result<(), Error> {
    let mut from = 0;
    for (at, c) in text.char_indices() {
        if let Some(instead) = escape(c) {
            out.write_str(&text[from..at])?;
            out.write_str(instead)?;
            from = at + c.len_utf8();
        }
    }
    out.write_str(&text[from..]).map_err(Error::from)
}

/// Takes the work on a text from the message's allowance.
fn charge(bytes: usize) -> Result<(), Error> {
    let mut left = LEFT.get();
    if bytes > FILTERED_BYTES_MAX {
        return Err(refused("a text is too long for a filter"));
    }
    left.filtered = left
        .filtered
        .checked_sub(bytes)
        .ok_or_else(|| refused("the filters have too much to do"))?;
    LEFT.set(left);
    Ok(())
}

fn on(text: String, filter: impl Fn(&str) -> String) -> Result<String, Error> {
    charge(text.len())?;
    Ok(filter(&text))
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first
            .to_uppercase()
            .chain(chars.flat_map(char::to_lowercase))
            .collect()
    })
}

fn title(text: &str) -> String {
    text.split_inclusive(char::is_whitespace)
        .map(capitalized)
        .collect()
}

/// Also for `null`, and for an empty text: those are what a default is for.
fn or_default(value: Value, instead: Value) -> Value {
    let is_missing = value.is_undefined() || value.is_none() || value.as_str().is_some_and(str::is_empty);
    if is_missing { instead } else { value }
}

fn length(value: Value) -> Result<usize, Error> {
    if let Some(text) = value.as_str() {
        charge(text.len())?;
        return Ok(text.chars().count());
    }
    value
        .len()
        .ok_or_else(|| refused("only texts, lists and objects have a length"))
}

fn end(value: &Value, is_last: bool) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        let found = if is_last {
            text.chars().next_back()
        } else {
            text.chars().next()
        };
        return Ok(found.map_or(Value::UNDEFINED, |c| Value::from(c.to_string())));
    }
    let count = value
        .len()
        .filter(|_| value.kind() == ValueKind::Seq)
        .ok_or_else(|| refused("only texts and lists have a first and a last"))?;
    match (count, is_last) {
        (0, _) => Ok(Value::UNDEFINED),
        (count, true) => value.get_item_by_index(count - 1),
        (_, false) => value.get_item_by_index(0),
    }
}

fn join(list: Value, between: Option<String>) -> Result<String, Error> {
    let between = between.unwrap_or_default();
    let mut joined = String::new();
    for (index, value) in list.try_iter()?.enumerate() {
        if index > 0 {
            joined.push_str(&between);
        }
        match value.as_str() {
            Some(text) => joined.push_str(text),
            None if value.is_number() => joined.push_str(&value.to_string()),
            None => return Err(refused("only lists of texts and numbers can be joined")),
        }
        charge(joined.len().min(FILTERED_BYTES_MAX + 1) / 64 + 1)?;
        if joined.len() > FILTERED_BYTES_MAX {
            return Err(refused("a list is too long to be joined"));
        }
    }
    Ok(joined)
}

fn replace(text: String, old: String, new: String) -> Result<String, Error> {
    charge(text.len())?;
    if old.is_empty() {
        return Err(refused("nothing cannot be replaced"));
    }
    let bytes = text.matches(old.as_str()).count().saturating_mul(new.len());
    charge(bytes)?;
    Ok(text.replace(&old, &new))
}

fn truncate(text: String, chars_max: usize) -> Result<String, Error> {
    charge(text.len().min(FILTERED_BYTES_MAX))?;
    if text.chars().nth(chars_max).is_none() {
        return Ok(text);
    }
    let mut cut: String = text.chars().take(chars_max.saturating_sub(1)).collect();
    cut.push('\u{2026}');
    Ok(cut)
}

fn round(value: f64, digits: Option<u32>) -> Result<Value, Error> {
    const DIGITS_MAX: u32 = 9;
    let digits = digits.unwrap_or(0);
    if digits > DIGITS_MAX {
        return Err(refused("round takes 0 to 9 digits"));
    }
    // As text, so that 2.50 stays 2.50.
    Ok(Value::from(format!("{value:.*}", digits as usize)))
}

fn calculate(
    a: &Value,
    b: &Value,
    whole: fn(i64, i64) -> Option<i64>,
    real: fn(f64, f64) -> f64,
) -> Result<Value, Error> {
    if let (Some(a), Some(b)) = (a.as_i64(), b.as_i64())
        && let Some(result) = whole(a, b)
    {
        return Ok(Value::from(result));
    }
    let number = |value: &Value| f64::try_from(value.clone()).ok().filter(|_| value.is_number());
    match (number(a), number(b)) {
        (Some(a), Some(b)) => Ok(Value::from(real(a, b))),
        _ => Err(refused("only numbers can be calculated with")),
    }
}

#[cfg(test)]
mod tests;
