//! `/devices`.

use axum::http::{Method, StatusCode};
use posthaste_event::{
    Channel,
    fields::Text,
    payload::push::{TOKEN_CHARS_MAX, USER_CHARS_MAX},
    schema::{answer, any_text, component, described, object, text, time},
};
use posthaste_service::{
    api::{Answer, Api, Operation},
    auth::TENANT_DEFAULT,
};
use serde_json::{Value as Json, json};

use super::{Scope, event::tenant};
use crate::devices::id_of;

const TAG: &str = "Devices";
const TOKEN: &str = "fcm-token-1";

fn device() -> Json {
    answer([
        ("id", true, any_text()),
        ("user", true, any_text()),
        (
            "token",
            false,
            described(any_text(), "Only for those who may see payloads."),
        ),
        ("provider", false, any_text()),
        ("at", true, time()),
        ("expiresAt", false, time()),
    ])
}

fn id() -> String {
    id_of(TENANT_DEFAULT, TOKEN)
}

fn example() -> Json {
    json!({"id": id(), "user": "ann", "token": TOKEN, "at": "2026-11-20T12:00:00Z"})
}

fn away(operation: Operation) -> Operation {
    operation.unavailable("devices cannot be looked up or kept at the moment: no answer")
}

impl Scope<'_> {
    pub(super) fn devices(&self) -> Api {
        let token = json!({
            "type": "string", "pattern": r"^[^\s\u0000-\u001f\u007f-\u009f]+$", "minLength": 1, "maxLength": TOKEN_CHARS_MAX,
        });
        let user = || text(Text::line(USER_CHARS_MAX));
        let body = object([
            ("user", true, user()),
            ("token", true, described(token, "As the device got it.")),
            ("provider", false, self.provider(Channel::Push)),
            ("expiresAt", false, described(time(), "When it is forgotten.")),
            ("tenant", false, tenant()),
        ]);
        let put = Operation::new(
            Method::PUT,
            "/devices",
            "registerDevice",
            TAG,
            "Register a device of a user",
        )
        .body(body, json!({"user": "ann", "token": TOKEN}))
        .answer(
            StatusCode::OK,
            Answer::json("The user has it from now on.", component("Device"), example()),
        )
        .refuses(
            StatusCode::BAD_REQUEST,
            "token",
            "holds a space",
            "the token as the device got it",
        );
        let page = answer([(
            "devices",
            true,
            json!({"type": "array", "items": component("Device")}),
        )]);
        let list = Operation::new(Method::GET, "/devices", "listDevices", TAG, "A user's devices")
            .given(json!({
                "name": "user", "in": "query", "required": true, "description": "Whose.", "schema": user(), "example": "ann"
            }))
            .query("tenant", "Of which tenant; your own without.", json!({"type": "string", "minLength": 1}))
            .answer(
                StatusCode::OK,
                Answer::json("They may be none.", page, json!({"devices": [example()]})),
            )
            .refuses(StatusCode::BAD_REQUEST, "user", "is missing, or is no name", "the name of a user");
        let delete = Operation::new(
            Method::DELETE,
            "/devices/{id}",
            "forgetDevice",
            TAG,
            "Forget a device",
        )
        .part("id", "As lists show it.", any_text(), json!(id()))
        .query(
            "tenant",
            "Of which tenant; your own without.",
            json!({"type": "string", "minLength": 1}),
        )
        .answer(StatusCode::NO_CONTENT, Answer::empty("It is forgotten."))
        .problem(StatusCode::NOT_FOUND, "there is no such device");
        [put, list, delete]
            .into_iter()
            .map(away)
            .fold(Api::new().schema("Device", device()), Api::operation)
    }
}
