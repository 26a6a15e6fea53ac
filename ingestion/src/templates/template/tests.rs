//! What templates say, and what is no template.

use super::*;

fn template(body: Json) -> Template {
    Template::new(&body).unwrap()
}

fn refused(body: Json) -> Vec<String> {
    let errors = Template::new(&body).unwrap_err();
    errors.into_iter().map(|error| error.field).collect()
}

fn render(template: &Template, channel: Channel, locale: &str, values: Json) -> Result<Json, Vec<String>> {
    template
        .render(
            channel,
            &[Some(locale)],
            &values,
            100_000,
            "payload",
            "templateCode",
        )
        .map(|rendered| json!({"locale": rendered.locale, "fields": rendered.fields}))
        .map_err(|errors| errors.into_iter().map(|error| error.field).collect())
}

#[test]
fn each_channel_says_it_in_its_way_and_in_the_nearest_language() {
    let welcome = template(json!({
        "description": "Says hello",
        "variables": {"type": "object", "required": ["userName"], "properties": {"userName": {"type": "string"}, "n": {}}},
        "channels": {
            "slack": {
                "en": {"text": "Hello {{ userName }}", "blocks": [{"type": "section", "text": {"type": "mrkdwn", "text": "*{{ userName }}*"}, "n": 1}]},
                "de": {"text": "Hallo {{ userName }}"}
            },
            "email": {"en": {"subject": "Hi {{ userName }}", "html": "<b>{{ userName }}</b>{% if n %}{{ n }}{% endif %}"}}
        }
    }));
    let values = json!({"userName": "<A&B>"});
    assert_eq!(
        render(&welcome, Channel::Slack, "en-GB", values.clone()).unwrap(),
        json!({"locale": "en", "fields": {
            "text": "Hello &lt;A&amp;B&gt;",
            "blocks": [{"type": "section", "text": {"type": "mrkdwn", "text": "*&lt;A&amp;B&gt;*"}, "n": 1}]
        }})
    );
    assert_eq!(
        render(&welcome, Channel::Slack, "de-AT", values.clone()).unwrap()["fields"]["text"],
        "Hallo &lt;A&amp;B&gt;"
    );
    assert_eq!(
        render(&welcome, Channel::Email, "fr", values).unwrap(),
        json!({"locale": "en", "fields": {"subject": "Hi <A&B>", "html": "<b>&lt;A&amp;B&gt;</b>"}})
    );
    assert_eq!(
        render(&welcome, Channel::Sms, "en", json!({})),
        Err(vec!["templateCode".into()])
    );
    assert_eq!(
        render(&welcome, Channel::Slack, "en", json!({})),
        Err(vec!["payload.userName".into()])
    );
    assert_eq!(
        render(&welcome, Channel::Slack, "en", json!({"userName": 7})),
        Err(vec!["payload.userName".into()])
    );
}

#[test]
fn what_is_missing_is_named_without_a_schema_too() {
    let order = template(json!({"channels": {"sms": {"en": {
        "message": "{{ user.name }}, order {{ order }}{% for i in items|default([]) %} {{ i.name }}{% endfor %}"
    }}}}));
    let missing = |values| render(&order, Channel::Sms, "en", values);
    assert_eq!(
        missing(json!({})),
        Err(vec![
            "payload.items".into(),
            "payload.order".into(),
            "payload.user.name".into()
        ])
    );
    assert_eq!(
        missing(json!({"user": {"name": "A"}, "order": null, "items": []})),
        Err(vec!["payload.order".into()])
    );
    assert_eq!(
        missing(json!({"user": {"name": "A"}, "order": 1, "items": [{}]})),
        Err(vec!["payload".into()])
    );
    assert_eq!(
        missing(json!({"user": {"name": "A"}, "order": [1]})),
        Err(vec!["templateCode".into()])
    );
    assert_eq!(
        missing(json!({"user": {"name": "A"}, "order": 1})).unwrap()["fields"]["message"],
        "A, order 1"
    );
}

#[test]
fn what_is_no_template_is_told_by_field() {
    let sms = |message: &str| json!({"channels": {"sms": {"en": {"message": message}}}});
    for (body, field) in [
        (json!([]), "body"),
        (json!({}), "channels"),
        (json!({"channels": {}}), "channels"),
        (json!({"channels": {"fax": {"en": {}}}}), "channels.fax"),
        (json!({"channels": {"sms": {}}}), "channels.sms"),
        (json!({"channels": {"sms": {"en": "Hi"}}}), "channels.sms.en"),
        (
            json!({"channels": {"sms": {"de": {"message": "Hi"}}}}),
            "channels.sms",
        ),
        (
            json!({"channels": {"sms": {"en": {"message": "Hi"}, "../x": {}}}}),
            "channels.sms.../x",
        ),
        (
            json!({"channels": {"sms": {"en": {}}}}),
            "channels.sms.en.message",
        ),
        (
            json!({"channels": {"sms": {"en": {"message": 7}}}}),
            "channels.sms.en.message",
        ),
        (
            json!({"channels": {"sms": {"en": {"message": "x", "from": "y"}}}}),
            "channels.sms.en.from",
        ),
        (sms("{{ a"), "channels.sms.en.message"),
        (sms("{{ a * 9 }}"), "channels.sms.en.message"),
        (sms("{% if a %}"), "channels.sms.en.message"),
        (
            sms(&format!("{{{{ a }}}}{}", "x".repeat(70_000))),
            "channels.sms.en.message",
        ),
        (
            json!({"locale": "../en", "channels": {"sms": {"en": {"message": "x"}}}}),
            "locale",
        ),
        (
            json!({"loc": 1, "channels": {"sms": {"en": {"message": "x"}}}}),
            "loc",
        ),
        (
            json!({"variables": {"properties": {"a": {}}}, "channels": {"sms": {"en": {"message": "{{ b }}"}}}}),
            "variables.properties.b",
        ),
        (
            json!({"variables": {"$ref": "#"}, "channels": {"sms": {"en": {"message": "{{ b }}"}}}}),
            "variables.$ref",
        ),
    ] {
        assert_eq!(refused(body.clone()), [field], "{body}");
    }
}

#[test]
fn a_message_is_bounded_whatever_the_template_does() {
    let bomb = template(json!({"channels": {"webhook": {"en": {
        "body": vec!["{% for a in list %}{% for b in list %}{{ a }}{% endfor %}{% endfor %}"; 100]
    }}}}));
    let values = json!({"list": vec!["x".repeat(1_000); 60]});
    assert_eq!(
        render(&bomb, Channel::Webhook, "en", values),
        Err(vec!["templateCode".into()])
    );
}
