//! `/templates`, `/configs` and `/schedules`: what tenants define.

use axum::http::{Method, StatusCode};
use posthaste_definitions::schedule::Missed;
use posthaste_event::{
    Channel,
    fields::Text,
    schema::{
        answer, any_text, boolean, channel, component, count, described, object, one_of, text, time,
        written_time,
    },
};
use posthaste_service::api::{Answer, Api, Operation};
use serde_json::{Value as Json, json};

use super::Scope;
use crate::{
    defining::{PAGE_DEFAULT, PAGE_MAX},
    schedules::NOT_ITS_OWN,
    templates::{Config, Template, code_schema, locale_schema},
};

/// A kind of definition, as its paths tell it.
struct Told {
    /// Its paths begin so.
    path: &'static str,
    tag: &'static str,
    /// The component of what is put.
    body: &'static str,
    /// The component of what is shown.
    shown: &'static str,
    /// The code of all examples.
    code: &'static str,
    example: Json,
    /// What is shown beside what all have.
    more: Json,
    ids: [&'static str; 4],
}

fn example_template() -> Json {
    json!({
        "channels": {"sms": {"en": {"message": "Hello {{ name }}, your order {{ order }} is on its way."}}},
        "variables": {
            "type": "object", "required": ["name", "order"],
            "properties": {"name": {"type": "string"}, "order": {"type": "integer"}}
        }
    })
}

fn fixed() -> [(&'static str, bool, Json); 5] {
    [
        ("code", true, any_text()),
        ("tenant", true, any_text()),
        ("version", true, count()),
        ("updatedAt", true, written_time()),
        (
            "updatedBy",
            true,
            described(any_text(), "Whose credentials; without any, the instance."),
        ),
    ]
}

fn shown(own: impl IntoIterator<Item = (&'static str, bool, Json)>) -> Json {
    answer(fixed().into_iter().chain(own))
}

fn page() -> Json {
    let item = answer([
        ("code", true, any_text()),
        ("version", true, count()),
        ("updatedAt", true, written_time()),
        ("updatedBy", true, any_text()),
    ]);
    answer([
        ("tenant", true, any_text()),
        ("items", true, json!({"type": "array", "items": item})),
        (
            "next",
            false,
            described(any_text(), "For the next page, if there is one: its `after`."),
        ),
    ])
}

impl Scope<'_> {
    pub(super) fn definitions(&self) -> Api {
        let template = Told {
            path: "/templates",
            tag: "Templates",
            body: "Template",
            shown: "TemplateShown",
            code: "order-shipped",
            example: example_template(),
            more: json!({"template": example_template()}),
            ids: ["listTemplates", "getTemplate", "putTemplate", "deleteTemplate"],
        };
        let config = json!({"channel": "sms", "priority": "high", "description": "Texts of the shop"});
        let config = Told {
            path: "/configs",
            tag: "Configurations",
            body: "Config",
            shown: "ConfigShown",
            code: "shop-sms",
            more: json!({"config": config}),
            example: config,
            ids: ["listConfigs", "getConfig", "putConfig", "deleteConfig"],
        };
        let payload = posthaste_event::payload::Payload::example(Channel::Sms);
        let schedule = json!({
            "cron": "0 9 * * MON-FRI", "timeZone": "Europe/Berlin", "missed": "once", "paused": true,
            "event": {"channel": "sms", "payload": payload}
        });
        let schedule = Told {
            path: "/schedules",
            tag: "Schedules",
            body: "Schedule",
            shown: "ScheduleShown",
            code: "weekday-report",
            more: json!({"schedule": schedule, "next": []}),
            example: schedule,
            ids: ["listSchedules", "getSchedule", "putSchedule", "deleteSchedule"],
        };
        let api = Api::new()
            .schema("DefinitionPage", page())
            .schema("Template", Template::schema())
            .schema(
                "TemplateShown",
                shown([("template", true, json!({"type": "object"}))]),
            )
            .schema("Config", Config::schema(self.providers))
            .schema(
                "ConfigShown",
                shown([("config", true, json!({"type": "object"}))]),
            )
            .schema("Schedule", schedule_schema())
            .schema("ScheduleShown", schedule_shown());
        // Before what is deleted, so that a walk through the document meets what it asks for.
        let api = defined(api, &template, Some(preview()));
        let api = defined(api, &config, None);
        let api = defined(api, &schedule, None);
        let left_out: Vec<&str> = NOT_ITS_OWN.iter().map(|(name, _)| *name).collect();
        self.event_schemas(api, "Scheduled", &left_out)
    }
}

fn defined(api: Api, told: &Told, more: Option<Operation>) -> Api {
    let of_code = |operation: Operation| {
        operation
            .part("code", "Its code.", code_schema(), json!(told.code))
            .shared("tenant")
            .unavailable("what is defined is not read yet")
    };
    let unknown = |operation: Operation| {
        let detail = format!("there is no {:?} of this tenant", told.code);
        operation.problem(StatusCode::NOT_FOUND, &detail)
    };
    let one = format!("{}/{{code}}", told.path);
    let [_, get, _, delete] = told.ids;
    let get = Operation::new(Method::GET, one.clone(), get, told.tag, "One, as it is in force")
        .answer(StatusCode::OK, shown_as("It is in force.", told));
    let delete = Operation::new(Method::DELETE, one.clone(), delete, told.tag, "Withdraw one")
        .answer(StatusCode::NO_CONTENT, Answer::empty("It is gone."));
    let found = [Some(get), more, Some(expecting(delete))];
    let api = api.operation(of_code(put(told, one))).operation(listed(told));
    found
        .into_iter()
        .flatten()
        .fold(api, |api, operation| api.operation(unknown(of_code(operation))))
}

fn listed(told: &Told) -> Operation {
    let [list, ..] = told.ids;
    let page = json!({
        "tenant": "default",
        "items": [{"code": told.code, "version": 1, "updatedAt": "2026-11-20T12:00:00.000Z", "updatedBy": "shop"}]
    });
    let limit = json!({"type": "integer", "minimum": 1, "maximum": PAGE_MAX, "default": PAGE_DEFAULT});
    Operation::new(
        Method::GET,
        told.path,
        list,
        told.tag,
        "Those of a tenant, by code",
    )
    .shared("tenant")
    .query("after", "`next` of the page before.", any_text())
    .query("limit", "How many.", limit)
    .answer(
        StatusCode::OK,
        Answer::json("A page.", component("DefinitionPage"), page),
    )
    .refuses(
        StatusCode::BAD_REQUEST,
        "limit",
        "is out of range",
        &format!("1 to {PAGE_MAX}"),
    )
    .unavailable("what is defined is not read yet")
}

fn put(told: &Told, path: String) -> Operation {
    let [_, _, put, _] = told.ids;
    let operation = Operation::new(Method::PUT, path, put, told.tag, "Define one, or another version")
        .says("In force where it was put when it is answered, and everywhere a moment later.")
        .body(component(told.body), told.example.clone())
        .answer(StatusCode::CREATED, shown_as("It is new.", told))
        .answer(
            StatusCode::OK,
            shown_as("It replaces another version, or says the same.", told),
        )
        .refuses(
            StatusCode::BAD_REQUEST,
            "channel",
            "is missing or no channel",
            "sms, email, push",
        )
        .problem(
            StatusCode::INSUFFICIENT_STORAGE,
            "nothing was written: definitions may take 268435456 bytes (definitions.bytes_max)",
        );
    expecting(operation)
}

/// What goes by the version that is in force.
fn expecting(operation: Operation) -> Operation {
    operation.shared("If-Match").shared("If-None-Match").problem(
        StatusCode::PRECONDITION_FAILED,
        "nothing was written: version 2 is in force, with the ETag \"2-5f\"",
    )
}

fn shown_as(words: &str, told: &Told) -> Answer {
    let mut example = json!({
        "code": told.code, "tenant": "default", "version": 1, "updatedAt": "2026-11-20T12:00:00.000Z", "updatedBy": "shop"
    });
    if let (Some(example), Some(more)) = (example.as_object_mut(), told.more.as_object()) {
        example.extend(more.clone());
    }
    Answer::json(words, component(told.shown), example).with("ETag")
}

fn preview() -> Operation {
    let body = object([
        ("channel", true, channel()),
        ("locale", false, locale_schema()),
        (
            "payload",
            false,
            json!({"type": "object", "description": "The template's variables."}),
        ),
    ]);
    let rendered = answer([
        ("code", true, any_text()),
        ("version", true, count()),
        ("channel", true, channel()),
        ("locale", true, any_text()),
        (
            "content",
            true,
            json!({"type": "object", "description": "Fields of the channel's payload."}),
        ),
    ]);
    let example = json!({
        "code": "order-shipped", "version": 1, "channel": "sms", "locale": "en",
        "content": {"message": "Hello Ann, your order 4711 is on its way."}
    });
    let variables = json!({"name": "Ann", "order": 4711});
    Operation::new(
        Method::POST,
        "/templates/{code}/preview",
        "previewTemplate",
        "Templates",
        "Render a template, and send nothing",
    )
    .body(body, json!({"channel": "sms", "payload": variables}))
    .answer(
        StatusCode::OK,
        Answer::json("What a message would say.", rendered, example),
    )
    .refuses(
        StatusCode::BAD_REQUEST,
        "channel",
        "is no channel",
        "sms, email, push",
    )
    .refuses(
        StatusCode::UNPROCESSABLE_ENTITY,
        "payload.name",
        "is missing",
        "a value: the template's text needs it",
    )
}

fn schedule_schema() -> Json {
    let cron = json!({
        "type": "string", "format": "cron",
        "description": "Five fields (minute, hour, day of month, month, day of week), six with seconds in front, such as \
                        `0 9 * * MON-FRI`; or @hourly, @daily, @weekly, @monthly, @yearly.",
    });
    let zone = json!({
        "type": "string", "format": "time-zone",
        "description": "A name of the IANA time zone database, such as Europe/Berlin; UTC without.",
    });
    object([
        ("cron", true, cron),
        ("timeZone", false, zone),
        (
            "missed",
            false,
            described(
                one_of(Missed::ALL.map(Missed::as_str)),
                "What becomes of times that passed while nothing ran: nothing, one for all of them, or each.",
            ),
        ),
        ("startsAt", false, described(time(), "Not before.")),
        ("endsAt", false, described(time(), "Not after.")),
        ("paused", false, boolean()),
        ("event", true, component("ScheduledEvent")),
    ])
}

fn schedule_shown() -> Json {
    let said = answer([
        ("cron", true, text(Text::line(usize::MAX))),
        ("timeZone", true, any_text()),
        ("missed", true, one_of(Missed::ALL.map(Missed::as_str))),
        ("paused", true, boolean()),
        ("startsAt", false, written_time()),
        ("endsAt", false, written_time()),
        ("event", true, json!({"type": "object"})),
    ]);
    let next = described(
        json!({"type": "array", "items": written_time()}),
        "Its next times; none while it is paused.",
    );
    shown([("schedule", true, said), ("next", true, next)])
}
