//! Reads what a request asks for, and names every field that cannot be taken.

use std::collections::HashMap;

use posthaste_event::{Channel, FieldError, Millis, number::whole};
use serde_json::{Map, Value as Json};

use crate::{Settings, letter::Filter, letter::Place};

/// Most event ids in one filter.
pub(crate) const IDS_MAX: usize = 1_000;
/// Longest text of a filter, in characters, as the description of the interface counts.
pub(crate) const TEXT_CHARS_MAX: usize = 256;
/// Most errors of one answer: a request can hold more mistakes than anybody wants to read.
const ERRORS_MAX: usize = 64;
/// Letters of one page of a list, unless the request says otherwise, and at most.
pub(crate) const PAGE_DEFAULT: usize = 50;
pub(crate) const PAGE_MAX: usize = 500;

/// A `POST /replay-dead-letter`.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplayRequest {
    /// How many of the letters meant are skipped, oldest first.
    pub from: usize,
    /// How many go out at most.
    pub limit: usize,
    /// Which letters are meant.
    pub filter: Filter,
    /// Only say what would go out.
    pub dry_run: bool,
    /// Answer at once, and go on without anybody waiting.
    pub background: bool,
    /// Letters per second at most.
    pub rate: Option<f64>,
    /// The time in which the rate rises from nothing, in milliseconds.
    pub ramp_ms: u64,
    /// Stop when more than this part dies again.
    pub refailure_ratio: f64,
}

/// A `GET /dead-letters`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListRequest {
    /// Which letters are meant.
    pub filter: Filter,
    /// Begin after this one.
    pub after: Option<(Millis, Place)>,
    /// How many at most.
    pub limit: usize,
    /// Groups of letters with the same error instead of letters.
    pub grouped: bool,
}

impl ReplayRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// Every field that cannot be taken.
    pub fn read(body: &Json, settings: &Settings) -> Result<Self, Vec<FieldError>> {
        let Some(body) = body.as_object() else {
            return Err(vec![FieldError::new(
                "body",
                "is not an object",
                "a JSON object, such as {}",
            )]);
        };
        let mut fields = Fields::default();
        fields.known("", body, &REPLAY_NAMES);
        let rate = fields.amount(body, "rate", RATE_LEAST, RATE_MOST);
        let wait = fields.boolean(body, "wait", rate.is_none());
        if rate.is_some() && wait {
            fields.refuse("wait", "does not go with a rate", "false, or no rate");
        }
        let ramp = fields.number(body, "rampSeconds", 0, RAMP_SECONDS_MAX);
        if ramp.is_some() && body.get("rate").is_none() {
            fields.refuse("rampSeconds", "does not go without a rate", "a rate, such as 10");
        }
        let limit_max = if wait {
            settings.limit_max
        } else {
            settings.background_limit_max
        };
        let request = Self {
            from: fields.number(body, "from", 0, u32::MAX as usize).unwrap_or(0),
            limit: fields
                .number(body, "limit", 1, limit_max)
                .unwrap_or(settings.limit_default),
            background: !wait,
            rate,
            ramp_ms: ramp.unwrap_or(0) as u64 * 1_000,
            refailure_ratio: fields
                .amount(body, "refailureRatio", RATIO_LEAST, 1.0)
                .unwrap_or(settings.refailure_ratio_max),
            dry_run: fields.boolean(body, "dryRun", false),
            filter: match body.get("filter") {
                None => Filter::default(),
                Some(Json::Object(filter)) => fields.filter(filter),
                Some(_) => {
                    fields.refuse("filter", "is not an object", FILTER_ACCEPTED);
                    Filter::default()
                }
            },
        };
        fields.finish(request)
    }
}

/// What a body may hold.
const REPLAY_NAMES: [&str; 8] = [
    "from",
    "limit",
    "filter",
    "dryRun",
    "rate",
    "rampSeconds",
    "refailureRatio",
    "wait",
];
/// Letters per second.
pub(crate) const RATE_LEAST: f64 = 0.001;
pub(crate) const RATE_MOST: f64 = 100_000.0;
pub(crate) const RAMP_SECONDS_MAX: usize = 86_400;
/// Nothing would be left to stop at below this.
pub(crate) const RATIO_LEAST: f64 = 0.001;

const FILTER_NAMES: [&str; 8] = [
    "ids", "tenant", "channel", "provider", "error", "from", "until", "text",
];
const FILTER_ACCEPTED: &str = "an object of ids, tenant, channel, provider, error, from, until, text";

impl ListRequest {
    /// Reads a query string. `ids` is a list with commas.
    ///
    /// # Errors
    /// Every field that cannot be taken.
    pub fn read(given: &[(String, String)]) -> Result<Self, Vec<FieldError>> {
        let mut fields = Fields::default();
        let mut query = HashMap::new();
        for (name, value) in given {
            if query.insert(name.as_str(), value.as_str()).is_some() {
                fields.refuse(name, "is given more than once", "each parameter once");
            }
        }
        let mut map = Map::new();
        for (name, value) in &query {
            if FILTER_NAMES.contains(name) {
                let value = match *name {
                    "ids" => value.split(',').map(str::trim).collect(),
                    _ => Json::from(*value),
                };
                map.insert((*name).to_owned(), value);
            } else if !["limit", "cursor", "groupBy"].contains(name) {
                fields.refuse(
                    name,
                    "is not known",
                    "limit, cursor, groupBy, ids, tenant, channel, provider, error, from, until, text",
                );
            }
        }
        let mut filter = fields.filter(&map);
        for error in &mut fields.errors {
            error.field = error.field.replace("filter.", "");
        }
        // An empty value of a form's field means that nothing was asked.
        filter.text = filter.text.filter(|text| !text.is_empty());
        let limit = match query.get("limit").map(|limit| limit.parse::<usize>()) {
            None => PAGE_DEFAULT,
            Some(Ok(limit)) if (1..=PAGE_MAX).contains(&limit) => limit,
            Some(_) => {
                fields.refuse("limit", "is out of range", &format!("1 to {PAGE_MAX}"));
                PAGE_DEFAULT
            }
        };
        let after = query.get("cursor").and_then(|text| {
            let cursor = read_cursor(text);
            if cursor.is_none() {
                fields.refuse("cursor", "is not one of ours", "the `next` of an earlier answer");
            }
            cursor
        });
        let grouped = query.get("groupBy");
        if grouped.is_some_and(|by| *by != "fingerprint") {
            fields.refuse("groupBy", "is not known", "fingerprint");
        }
        if grouped.is_some() && after.is_some() {
            fields.refuse(
                "cursor",
                "does not go with groupBy",
                "a limit: the largest groups are shown",
            );
        }
        let grouped = grouped.is_some();
        fields.finish(Self {
            filter,
            after,
            limit,
            grouped,
        })
    }
}

/// The cursor of a list's next page.
pub fn cursor(at: Millis, (partition, offset): Place) -> String {
    format!("{at}.{partition}.{offset}")
}

fn is_short(text: &str) -> bool {
    text.chars().nth(TEXT_CHARS_MAX).is_none()
}

fn read_cursor(text: &str) -> Option<(Millis, Place)> {
    let mut parts = text.split('.');
    let at = parts.next()?.parse().ok()?;
    let partition = parts.next()?.parse().ok()?;
    let offset = parts.next()?.parse().ok()?;
    parts.next().is_none().then_some((at, (partition, offset)))
}

/// Collects what is wrong, so that a user hears all of it at once.
#[derive(Default)]
struct Fields {
    errors: Vec<FieldError>,
}

impl Fields {
    fn finish<T>(self, request: T) -> Result<T, Vec<FieldError>> {
        if self.errors.is_empty() {
            Ok(request)
        } else {
            Err(self.errors)
        }
    }

    fn refuse(&mut self, field: &str, problem: &str, accepted: &str) {
        if self.errors.len() == ERRORS_MAX {
            return;
        }
        let field: String = field.chars().filter(|c| !c.is_control()).take(64).collect();
        self.errors.push(FieldError::new(field, problem, accepted));
    }

    fn known(&mut self, path: &str, map: &Map<String, Json>, names: &[&str]) {
        for name in map.keys().filter(|name| !names.contains(&name.as_str())) {
            self.refuse(&format!("{path}{name}"), "is not known", &names.join(", "));
        }
    }

    fn number(&mut self, map: &Map<String, Json>, name: &str, least: usize, most: usize) -> Option<usize> {
        let value = map.get(name)?;
        let number = value.is_number().then(|| whole(&value.to_string())).flatten();
        let number = number.and_then(|number| usize::try_from(number).ok());
        let number = number.filter(|number| (least..=most).contains(number));
        if number.is_none() {
            self.refuse(
                name,
                "is out of range",
                &format!("a whole number, {least} to {most}"),
            );
        }
        number
    }

    fn amount(&mut self, map: &Map<String, Json>, name: &str, least: f64, most: f64) -> Option<f64> {
        let amount = map.get(name)?.as_f64();
        let amount = amount.filter(|amount| (least..=most).contains(amount));
        if amount.is_none() {
            self.refuse(name, "is out of range", &format!("a number, {least} to {most}"));
        }
        amount
    }

    fn boolean(&mut self, map: &Map<String, Json>, name: &str, usual: bool) -> bool {
        match map.get(name) {
            None => usual,
            Some(Json::Bool(value)) => *value,
            Some(_) => {
                self.refuse(name, "is not a boolean", "true or false");
                usual
            }
        }
    }

    fn filter(&mut self, map: &Map<String, Json>) -> Filter {
        self.known("filter.", map, &FILTER_NAMES);
        let filter = Filter {
            ids: self.ids(map),
            tenant: self.text(map, "tenant"),
            channel: self.text(map, "channel"),
            provider: self.text(map, "provider"),
            error: self.text(map, "error"),
            from: self.time(map, "from"),
            until: self.time(map, "until"),
            text: self.text(map, "text"),
        };
        if let Some(Err(error)) = filter.channel.as_deref().map(str::parse::<Channel>) {
            self.refuse("filter.channel", "is not known", &error.accepted);
        }
        if let (Some(from), Some(until)) = (filter.from, filter.until)
            && from >= until
        {
            self.refuse("filter.until", "is not after filter.from", "a later time");
        }
        filter
    }

    fn ids(&mut self, map: &Map<String, Json>) -> Option<Vec<String>> {
        let ids: Option<Vec<String>> = map.get("ids")?.as_array().and_then(|ids| {
            ids.iter()
                .map(|id| id.as_str().map(str::to_owned))
                .collect::<Option<Vec<_>>>()
        });
        let ids = ids.filter(|ids| ids.len() <= IDS_MAX && ids.iter().all(|id| is_short(id)));
        if ids.is_none() {
            let accepted = format!("an array of up to {IDS_MAX} event ids");
            self.refuse("filter.ids", "is not a list of event ids", &accepted);
        }
        ids
    }

    fn text(&mut self, map: &Map<String, Json>, name: &str) -> Option<String> {
        let text = map.get(name)?.as_str().filter(|text| is_short(text));
        if text.is_none() {
            let accepted = format!("a string of up to {TEXT_CHARS_MAX} characters");
            self.refuse(&format!("filter.{name}"), "cannot be used", &accepted);
        }
        text.map(str::to_owned)
    }

    fn time(&mut self, map: &Map<String, Json>, name: &str) -> Option<Millis> {
        let time = match map.get(name)? {
            Json::Number(number) => number
                .as_i64()
                .or_else(|| i64::try_from(whole(&number.to_string())?).ok()),
            // A number in a query string is a string too.
            Json::String(text) => text
                .parse()
                .ok()
                .or_else(|| Some(text.parse::<jiff::Timestamp>().ok()?.as_millisecond())),
            _ => None,
        };
        if time.is_none() {
            self.refuse(
                &format!("filter.{name}"),
                "is not a time",
                "RFC 3339 such as 2026-01-31T12:00:00Z, or milliseconds since 1970",
            );
        }
        time
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings() -> Settings {
        crate::settings::tests::defaults()
    }

    fn refused(body: Json) -> Vec<String> {
        let errors = ReplayRequest::read(&body, &settings()).unwrap_err();
        errors.into_iter().map(|error| error.field).collect()
    }

    #[test]
    fn an_empty_body_means_the_oldest_thousand() {
        let request = ReplayRequest::read(&json!({}), &settings()).unwrap();
        assert_eq!((request.from, request.limit, request.dry_run), (0, 1_000, false));
        assert_eq!(request.filter, Filter::default());
    }

    #[test]
    fn a_filter_is_read() {
        let body = json!({"from": 5, "limit": 10, "dryRun": true, "filter": {
            "ids": ["a", "b"], "provider": "twilio", "channel": "sms", "error": "permanent", "tenant": "t",
            "from": "1970-01-01T00:00:01Z", "until": 2_000, "text": "Timed out",
        }});
        let request = ReplayRequest::read(&body, &settings()).unwrap();
        assert_eq!(
            (request.filter.from, request.filter.until),
            (Some(1_000), Some(2_000))
        );
        assert_eq!(request.filter.ids.unwrap().len(), 2);
    }

    #[test]
    fn a_rate_means_that_nobody_waits() {
        let body = json!({"rate": 2.5, "rampSeconds": 60, "limit": 500_000, "refailureRatio": 0.1});
        let request = ReplayRequest::read(&body, &settings()).unwrap();
        assert_eq!(
            (request.background, request.rate, request.ramp_ms, request.limit),
            (true, Some(2.5), 60_000, 500_000)
        );
        let request = ReplayRequest::read(&json!({"wait": false}), &settings()).unwrap();
        assert_eq!((request.background, request.rate), (true, None));
        // Characters are counted, not bytes.
        let longest = json!({"filter": {"text": "ä".repeat(TEXT_CHARS_MAX)}});
        assert!(ReplayRequest::read(&longest, &settings()).is_ok());
    }

    #[test]
    fn every_wrong_field_is_named() {
        assert_eq!(refused(json!([])), ["body"]);
        assert_eq!(refused(json!({"from": -1, "limit": 0})), ["from", "limit"]);
        assert_eq!(refused(json!({"limit": 10_001})), ["limit"]);
        assert_eq!(refused(json!({"limit": "5", "since": 1})), ["since", "limit"]);
        assert_eq!(refused(json!({"dryRun": "yes"})), ["dryRun"]);
        assert_eq!(refused(json!({"rate": 0})), ["rate"]);
        assert_eq!(refused(json!({"rate": 5, "wait": true})), ["wait"]);
        assert_eq!(refused(json!({"rampSeconds": 5})), ["rampSeconds"]);
        assert_eq!(
            refused(json!({"refailureRatio": 1.5, "rate": "fast"})),
            ["rate", "refailureRatio"]
        );
        assert_eq!(refused(json!({"filter": []})), ["filter"]);
        assert_eq!(
            refused(json!({"filter": {"channel": "fax", "id": "x"}})),
            ["filter.id", "filter.channel"]
        );
        assert_eq!(refused(json!({"filter": {"ids": [1]}})), ["filter.ids"]);
        assert_eq!(
            refused(json!({"filter": {"from": 5, "until": 5}})),
            ["filter.until"]
        );
        assert_eq!(refused(json!({"filter": {"from": "yesterday"}})), ["filter.from"]);
        assert_eq!(
            refused(json!({"filter": {"text": "ä".repeat(TEXT_CHARS_MAX + 1)}})),
            ["filter.text"]
        );
    }

    #[test]
    fn a_list_is_read_from_the_query_string() {
        let query = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            ListRequest::read(&pairs.collect::<Vec<_>>())
        };
        let list = query(&[
            ("ids", "a, b"),
            ("cursor", &cursor(5, (3, 9))),
            ("limit", "7"),
            ("from", "99"),
        ])
        .unwrap();
        assert_eq!(
            (list.after, list.limit, list.filter.from),
            (Some((5, (3, 9))), 7, Some(99))
        );
        assert_eq!(list.filter.ids.unwrap(), ["a", "b"]);
        assert_eq!(
            query(&[("limit", "1"), ("limit", "2")]).unwrap_err()[0].problem,
            "is given more than once"
        );
        for wrong in [
            ("cursor", "5.3"),
            ("limit", "0"),
            ("limit", "x"),
            ("channel", "fax"),
            ("page", "2"),
            ("groupBy", "tenant"),
        ] {
            assert_eq!(query(&[wrong]).unwrap_err()[0].field, wrong.0);
        }
    }
}
