//! The event, as clients write it: one schema for each channel, told apart by `channel`.

use posthaste_event::{
    Channel, Priority,
    fields::Text,
    payload::Payload,
    schema::{boolean, component, described, name, object, one_of, optional, policy, text, time},
};
use posthaste_service::api::Api;
use serde_json::{Map, Value as Json, json};

use super::Scope;
use crate::{
    attachments::bound,
    request::{
        EVENT_ID_CHARS_MAX, EVENT_ID_MARKS, ORDERING_KEY_CHARS_MAX, TENANT_CHARS_MAX, TENANT_MARKS,
        WANTS_SEALING, ttl_seconds_max,
    },
};

/// The name that an older version has for `normal`.
const PRIORITY_ALIAS: &str = "default";

/// Its name, whether it must be there, and its schema.
type Field = (&'static str, bool, Json);

/// A channel's name in names of components.
pub(super) const fn camel(channel: Channel) -> &'static str {
    match channel {
        Channel::Sms => "Sms",
        Channel::Email => "Email",
        Channel::Push => "Push",
        Channel::Slack => "Slack",
        Channel::Webhook => "Webhook",
        Channel::InApp => "InApp",
    }
}

/// A tenant's name.
pub(super) fn tenant() -> Json {
    described(
        name(TENANT_MARKS, TENANT_CHARS_MAX),
        "Whose event it is; your own tenant without. Credentials for one tenant may name no other.",
    )
}

/// The priority, as clients may write it.
pub(super) fn priority() -> Json {
    let names = [
        Priority::Low,
        Priority::Normal,
        Priority::High,
        Priority::Critical,
    ]
    .map(Priority::as_str);
    described(
        one_of(names.into_iter().chain([PRIORITY_ALIAS])),
        "How urgent it is; `default` is `normal`. Critical events have lanes of their own.",
    )
}

/// Both of these are given.
pub(super) fn both(first: (&str, Json), second: (&str, Json)) -> Json {
    json!({"properties": {first.0: first.1, second.0: second.1}, "required": [first.0, second.0]})
}

/// What must not be: one of these.
pub(super) fn none_of(refused: Vec<Json>) -> Json {
    json!({"anyOf": refused})
}

impl Scope<'_> {
    /// `Event`, with one schema for each channel; `<prefix>` sets apart those of which `left_out` are no fields.
    pub(super) fn event_schemas(&self, api: Api, prefix: &str, left_out: &[&str]) -> Api {
        let mut mapping = Map::new();
        let mut variants = Vec::new();
        let mut api = api;
        for channel in Channel::ALL {
            let of_channel = format!("{prefix}{}Event", camel(channel));
            mapping.insert(
                channel.as_str().to_owned(),
                json!(format!("#/components/schemas/{of_channel}")),
            );
            variants.push(component(&of_channel));
            api = api
                .schema(&of_channel, self.event_schema(channel, left_out))
                .schema(
                    &format!("{}Payload", camel(channel)),
                    bound(Payload::schema(channel), self.settings),
                );
        }
        let event =
            json!({"oneOf": variants, "discriminator": {"propertyName": "channel", "mapping": mapping}});
        api.schema(&format!("{prefix}Event"), event)
    }

    /// The providers that can carry a channel.
    pub(super) fn provider(&self, channel: Channel) -> Json {
        let known = self
            .providers
            .get(&channel)
            .map(Vec::as_slice)
            .unwrap_or_default();
        described(
            one_of(known.iter().map(String::as_str)),
            "The provider that you insist on.",
        )
    }

    fn event_schema(&self, channel: Channel, left_out: &[&str]) -> Json {
        let what = self.what_fields(channel).into_iter();
        let fields = what.chain(self.how_fields(channel)).chain(self.when_fields());
        let fields: Vec<_> = fields.filter(|(name, ..)| !left_out.contains(name)).collect();
        let has = |name: &str| fields.iter().any(|(known, ..)| *known == name);
        let given = || json!({"type": "string"});
        let slower = [Priority::Low, Priority::Normal, Priority::High].map(Priority::as_str);
        let slower: Vec<&str> = slower.into_iter().chain([PRIORITY_ALIAS]).collect();
        let mut refused = vec![both(
            ("urgent", json!({"const": true})),
            ("priority", json!({"enum": slower})),
        )];
        if has("expiresAt") {
            refused.push(both(("ttl", json!({"type": "integer"})), ("expiresAt", given())));
        }
        if has("scheduledAt") && has("orderingKey") {
            refused.push(both(("scheduledAt", given()), ("orderingKey", given())));
        }
        let mut event = object(fields);
        event["not"] = none_of(refused);
        event
    }

    fn what_fields(&self, channel: Channel) -> [Field; 5] {
        let (wants_sealing, sealing) = match self.has_keys {
            true => (optional(boolean()), "the payload is sealed until it is sent"),
            false => (
                json!({"enum": [false, null]}),
                "an event is refused: this system has no keys to seal it with",
            ),
        };
        let metadata = json!({
            "type": "object",
            "properties": {"provider": optional(self.provider(channel)), WANTS_SEALING: wants_sealing},
            "description": format!(
                "Anything of your own; it comes back with the status. `provider` here is the same as above; with `{WANTS_SEALING}` {sealing}."
            ),
        });
        let own = described(
            name(EVENT_ID_MARKS, EVENT_ID_CHARS_MAX),
            "An id of your own: a second event of the tenant with it is not taken. Whoever sees all tenants sees it as `tenant~id`.",
        );
        [
            (
                "channel",
                true,
                json!({"type": "string", "const": channel.as_str()}),
            ),
            ("payload", true, component(&format!("{}Payload", camel(channel)))),
            ("metadata", false, metadata),
            ("eventId", false, own),
            ("tenant", false, tenant()),
        ]
    }

    fn how_fields(&self, channel: Channel) -> [Field; 5] {
        let order = described(
            text(Text::line(ORDERING_KEY_CHARS_MAX)),
            "Events with the same key go out one after the other, in their order.",
        );
        [
            (
                "urgent",
                false,
                described(boolean(), "The same as the priority `critical`."),
            ),
            ("priority", false, priority()),
            ("provider", false, self.provider(channel)),
            ("orderingKey", false, order),
            ("policy", false, policy()),
        ]
    }

    fn when_fields(&self) -> [Field; 3] {
        let ttl = json!({"type": "integer", "minimum": 1, "maximum": ttl_seconds_max(self.settings)});
        let ahead = format!(
            "When it is to go out, up to {} days ahead.",
            self.settings.ahead_days_max
        );
        let ends = "When it is of no use any more: in the future, and after `scheduledAt`.";
        let lasts = "After how many seconds it is of no use any more, from `scheduledAt` on.";
        [
            ("scheduledAt", false, described(time(), &ahead)),
            ("expiresAt", false, described(time(), ends)),
            ("ttl", false, described(ttl, lasts)),
        ]
    }
}
