//! How the provider files read answers.

use ErrorKind::{Ambiguous, Permanent, RateLimited, Rejected};
use posthaste_event::{ErrorKind, failure::Reported};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::description;
use crate::answer::Answer;

/// Status, a header, body.
pub(super) type Case<'a> = (u16, &'a str, &'a str, Result<&'a str, (ErrorKind, &'a str)>);

/// Expects what each answer means: status, headers, body, and the kind and code of the failure or the id of the message.
pub(super) fn reads(name: &str, answers: &[Case<'_>]) {
    let description = description(name);
    for (status, header, body, expected) in answers {
        let mut headers = HeaderMap::new();
        if let Some((name, value)) = header.split_once(": ") {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.insert(name, HeaderValue::from_str(value).unwrap());
        }
        let found = description
            .reading
            .read(name, &Answer::new(*status, &headers, body, 1_000));
        let found = match &found {
            Ok(receipt) => Ok(receipt.message_id.as_deref().unwrap_or_default()),
            Err(failure) => Err((failure.kind, failure.code.as_deref().unwrap_or_default())),
        };
        assert_eq!(found, *expected, "{name}: {status} {body}");
    }
}

#[test]
fn twilio() {
    let error = |code: u32| format!(r#"{{"code":{code},"message":"m","status":400}}"#);
    reads(
        "twilio",
        &[
            (201, "", r#"{"sid":"SM1","status":"queued"}"#, Ok("SM1")),
            (201, "", "<html>", Err((Ambiguous, "201"))),
            (200, "", r#"{"sid":"SM1"}"#, Err((Ambiguous, "200"))),
            (400, "", &error(21_211), Err((Permanent, "21211"))),
            (400, "", &error(21_610), Err((Permanent, "21610"))),
            (400, "", &error(21_614), Err((Permanent, "21614"))),
            (400, "", &error(21_635), Err((Permanent, "21635"))),
            (400, "", &error(21_658), Err((Permanent, "21658"))),
            // The sender does not reach this place; another provider's may.
            (400, "", &error(21_612), Err((Rejected, "21612"))),
            (403, "", &error(21_408), Err((Rejected, "21408"))),
            (400, "", &error(21_606), Err((Rejected, "21606"))),
            (400, "", &error(21_611), Err((RateLimited, "21611"))),
            (401, "", &error(20_003), Err((Rejected, "20003"))),
            (429, "retry-after: 3", &error(20_429), Err((RateLimited, "20429"))),
            (500, "", &error(20_500), Err((Ambiguous, "20500"))),
            (503, "", "", Err((Rejected, "503"))),
        ],
    );
}

#[test]
fn messagebird() {
    let error = |code: u32, parameter: &str| {
        format!(r#"{{"errors":[{{"code":{code},"description":"d","parameter":"{parameter}"}}]}}"#)
    };
    reads(
        "messagebird",
        &[
            (
                201,
                "",
                r#"{"id":"e8077d803532c0b5937c639b60216938"}"#,
                Ok("e8077d803532c0b5937c639b60216938"),
            ),
            (201, "", "", Err((Ambiguous, "201"))),
            (422, "", &error(9, "recipients"), Err((Permanent, "9"))),
            (422, "", &error(10, "body"), Err((Permanent, "10"))),
            (400, "", &error(9, "recipients"), Err((Permanent, "9"))),
            (422, "", &error(10, "originator"), Err((Rejected, "10"))),
            (400, "", &error(9, "originator"), Err((Rejected, "9"))),
            (401, "", &error(2, "access_key"), Err((Rejected, "2"))),
            (402, "", &error(25, ""), Err((Rejected, "25"))),
            (429, "", "", Err((RateLimited, "429"))),
            (500, "", &error(99, ""), Err((Ambiguous, "99"))),
        ],
    );
}

#[test]
fn sendgrid() {
    let error =
        r#"{"errors":[{"message":"Does not contain a valid address.","field":"from.email","help":null}]}"#;
    reads(
        "sendgrid",
        &[
            (202, "x-message-id: 14c5d75ce93", "", Ok("14c5d75ce93")),
            (202, "", "", Ok("")),
            (200, "", "", Err((Ambiguous, "200"))),
            (400, "", error, Err((Permanent, "from.email"))),
            (
                401,
                "",
                r#"{"errors":[{"message":"m","field":null}]}"#,
                Err((Rejected, "401")),
            ),
            (403, "", error, Err((Rejected, "from.email"))),
            (413, "", "", Err((Permanent, "413"))),
            (429, "x-ratelimit-reset: 61", "", Err((RateLimited, "429"))),
            (500, "", "", Err((Ambiguous, "500"))),
        ],
    );
    let mut headers = HeaderMap::new();
    headers.insert("x-ratelimit-reset", HeaderValue::from_static("61"));
    let failure = description("sendgrid")
        .reading
        .read("sendgrid", &Answer::new(429, &headers, "", 1_000));
    assert_eq!(failure.unwrap_err().retry_after_ms, Some(60_000));
}

#[test]
fn mailgun() {
    reads(
        "mailgun",
        &[
            (
                200,
                "",
                r#"{"id":"<2@mg.example.com>","message":"Queued. Thank you."}"#,
                Ok("<2@mg.example.com>"),
            ),
            (200, "", "Mailgun Magnificent API", Err((Ambiguous, "200"))),
            (
                400,
                "",
                r#"{"message":"'to' parameter is not a valid address."}"#,
                Err((Permanent, "400")),
            ),
            (401, "", "Forbidden", Err((Rejected, "401"))),
            (
                404,
                "",
                r#"{"message":"Domain not found: x"}"#,
                Err((Rejected, "404")),
            ),
            (429, "", "", Err((RateLimited, "429"))),
            (502, "", "", Err((Ambiguous, "502"))),
        ],
    );
}

#[test]
fn firebase() {
    let error = |status: &str, code: &str| {
        format!(
            r#"{{"error":{{"code":400,"message":"m","status":"{status}","details":[{{"@type":"x"}},{{"errorCode":"{code}"}}]}}}}"#
        )
    };
    reads(
        "firebase",
        &[
            (
                200,
                "",
                r#"{"name":"projects/p/messages/0:1"}"#,
                Ok("projects/p/messages/0:1"),
            ),
            (
                404,
                "",
                &error("NOT_FOUND", "UNREGISTERED"),
                Err((Permanent, "UNREGISTERED")),
            ),
            (
                400,
                "",
                &error("INVALID_ARGUMENT", "INVALID_ARGUMENT"),
                Err((Permanent, "INVALID_ARGUMENT")),
            ),
            (
                400,
                "",
                r#"{"error":{"status":"INVALID_ARGUMENT"}}"#,
                Err((Permanent, "INVALID_ARGUMENT")),
            ),
            (
                403,
                "",
                &error("PERMISSION_DENIED", "SENDER_ID_MISMATCH"),
                Err((Permanent, "SENDER_ID_MISMATCH")),
            ),
            (
                429,
                "retry-after: 60",
                &error("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"),
                Err((RateLimited, "QUOTA_EXCEEDED")),
            ),
            (
                503,
                "",
                &error("UNAVAILABLE", "UNAVAILABLE"),
                Err((Rejected, "UNAVAILABLE")),
            ),
            (
                500,
                "",
                &error("INTERNAL", "INTERNAL"),
                Err((Ambiguous, "INTERNAL")),
            ),
            (
                401,
                "",
                &error("UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR"),
                Err((Rejected, "THIRD_PARTY_AUTH_ERROR")),
            ),
            (
                401,
                "",
                r#"{"error":{"status":"UNAUTHENTICATED"}}"#,
                Err((Rejected, "UNAUTHENTICATED")),
            ),
            (
                404,
                "",
                r#"{"error":{"status":"NOT_FOUND"}}"#,
                Err((Rejected, "NOT_FOUND")),
            ),
        ],
    );
}

#[test]
fn what_is_true_of_a_recipient_for_good_is_reported() {
    let firebase = |status: &str, code: &str| {
        format!(r#"{{"error":{{"status":"{status}","details":[{{"errorCode":"{code}"}}]}}}}"#)
    };
    for (name, status, body, reported) in [
        (
            "twilio",
            400,
            r#"{"code":21610}"#.to_owned(),
            Some(Reported::Unsubscribed),
        ),
        ("twilio", 400, r#"{"code":21211}"#.to_owned(), None),
        ("twilio", 429, r#"{"code":20429}"#.to_owned(), None),
        (
            "firebase",
            404,
            firebase("NOT_FOUND", "UNREGISTERED"),
            Some(Reported::Bounced),
        ),
        (
            "firebase",
            400,
            firebase("INVALID_ARGUMENT", "INVALID_ARGUMENT"),
            None,
        ),
        (
            "apns",
            410,
            r#"{"reason":"Unregistered"}"#.to_owned(),
            Some(Reported::Bounced),
        ),
        ("apns", 400, r#"{"reason":"BadDeviceToken"}"#.to_owned(), None),
    ] {
        let headers = HeaderMap::new();
        let answer = Answer::new(status, &headers, &body, 1_000);
        let failure = description(name).reading.read(name, &answer).unwrap_err();
        assert_eq!(failure.reported, reported, "{name}: {body}");
    }
}

#[test]
fn onesignal() {
    reads(
        "onesignal",
        &[
            (200, "", r#"{"id":"b98881cc","external_id":null}"#, Ok("b98881cc")),
            (
                200,
                "",
                r#"{"id":"b9","errors":{"invalid_player_ids":["x"]}}"#,
                Ok("b9"),
            ),
            (
                200,
                "",
                r#"{"id":"","errors":["All included players are not subscribed"]}"#,
                Err((Permanent, "200")),
            ),
            (
                200,
                "",
                r#"{"id":"","errors":{"invalid_player_ids":["x"]}}"#,
                Err((Permanent, "200")),
            ),
            (200, "", "{}", Err((Ambiguous, "200"))),
            (
                400,
                "",
                r#"{"errors":["app_id not found"]}"#,
                Err((Permanent, "400")),
            ),
            (
                403,
                "",
                r#"{"errors":["Access denied."]}"#,
                Err((Rejected, "403")),
            ),
            (
                429,
                "",
                r#"{"errors":["API rate limit exceeded"]}"#,
                Err((RateLimited, "429")),
            ),
        ],
    );
}

#[test]
fn slack() {
    let error = |name: &str| format!(r#"{{"ok":false,"error":"{name}"}}"#);
    reads(
        "slack",
        &[
            (
                200,
                "",
                r#"{"ok":true,"channel":"C1","ts":"1503435956.000247"}"#,
                Ok("1503435956.000247"),
            ),
            (
                200,
                "",
                &error("channel_not_found"),
                Err((Permanent, "channel_not_found")),
            ),
            (200, "", &error("is_archived"), Err((Permanent, "is_archived"))),
            (
                200,
                "",
                &error("restricted_action_read_only_channel"),
                Err((Permanent, "restricted_action_read_only_channel")),
            ),
            (
                200,
                "",
                &error("restricted_action"),
                Err((Rejected, "restricted_action")),
            ),
            (
                200,
                "",
                &error("not_in_channel"),
                Err((Rejected, "not_in_channel")),
            ),
            (200, "", &error("invalid_auth"), Err((Rejected, "invalid_auth"))),
            (200, "", &error("fatal_error"), Err((Ambiguous, "fatal_error"))),
            (200, "", &error("ratelimited"), Err((RateLimited, "ratelimited"))),
            (
                429,
                "retry-after: 30",
                &error("ratelimited"),
                Err((RateLimited, "ratelimited")),
            ),
            (200, "", "<html>", Err((Ambiguous, "200"))),
        ],
    );
}

#[test]
fn slack_webhook() {
    reads(
        "slack_webhook",
        &[
            (200, "", "ok", Ok("")),
            (200, "", "<html>", Err((Ambiguous, "<html>"))),
            (400, "", "invalid_payload", Err((Permanent, "invalid_payload"))),
            (400, "", "user_not_found", Err((Permanent, "user_not_found"))),
            (403, "", "action_prohibited", Err((Rejected, "action_prohibited"))),
            (404, "", "no_service", Err((Rejected, "no_service"))),
            (500, "", "rollup_error", Err((Ambiguous, "rollup_error"))),
            (
                410,
                "",
                "channel_is_archived",
                Err((Permanent, "channel_is_archived")),
            ),
            (429, "", "", Err((RateLimited, "429"))),
        ],
    );
}

#[test]
fn teams() {
    let error = |code: &str| format!(r#"{{"error": {{"code": "{code}", "message": "no"}}}}"#);
    reads(
        "teams",
        &[
            (202, "x-ms-workflow-run-id: 0858", "", Ok("0858")),
            (
                400,
                "",
                &error("TriggerInputSchemaMismatch"),
                Err((Permanent, "TriggerInputSchemaMismatch")),
            ),
            (
                400,
                "",
                &error("WorkflowTriggerIsNotEnabled"),
                Err((Rejected, "WorkflowTriggerIsNotEnabled")),
            ),
            (401, "", &error("Unauthorized"), Err((Rejected, "Unauthorized"))),
            (
                404,
                "",
                &error("WorkflowNotFound"),
                Err((Rejected, "WorkflowNotFound")),
            ),
            (413, "", "", Err((Permanent, "413"))),
            (429, "retry-after: 5", "", Err((RateLimited, "429"))),
            (502, "", "", Err((Ambiguous, "502"))),
        ],
    );
}

#[test]
fn webhook() {
    reads(
        "webhook",
        &[
            (200, "", "whatever", Ok("")),
            (204, "", "", Ok("")),
            (301, "location: http://127.0.0.1/", "", Err((Rejected, "301"))),
            (400, "", "a secret of the receiver", Err((Rejected, "400"))),
            (410, "", "", Err((Permanent, "410"))),
            (429, "retry-after: 1", "", Err((RateLimited, "429"))),
            (500, "", "", Err((Ambiguous, "500"))),
            (503, "", "", Err((Rejected, "503"))),
        ],
    );
}
