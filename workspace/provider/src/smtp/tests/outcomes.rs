//! What became of a message, whatever the server did.

use std::sync::atomic::Ordering;

use posthaste_event::{
    ErrorKind::{self, Ambiguous, Permanent, RateLimited, Rejected},
    failure::Reported,
};
use serde_json::json;

use super::{
    account, payload, send,
    server::{Script, Server, Tls, certificate},
};
use crate::tests::load;

async fn outcome(script: Script) -> Result<Option<String>, (ErrorKind, String)> {
    let server = Server::start(script).await;
    let registry = account(server.port, "timeout_ms = 1500");
    send(&registry, &payload())
        .await
        .map(|receipt| receipt.message_id)
        .map_err(|failure| (failure.kind, failure.code.unwrap_or_default()))
}

#[tokio::test]
async fn a_message_that_was_taken_has_the_servers_name_for_it() {
    let taken = outcome(Script::default()).await;
    assert_eq!(taken, Ok(Some("Ok: queued as 4F2A1".to_owned())));
}

#[tokio::test]
async fn a_reply_means_what_its_code_and_place_say() {
    let at = |command, reply| Script {
        replies: vec![(command, reply)],
        ..Script::default()
    };
    let end = |reply| Script {
        at_end: Some(reply),
        ..Script::default()
    };
    let greeting = |text| Script {
        greeting: Some(text),
        ..Script::default()
    };
    for (script, kind, code) in [
        (greeting("421 4.3.2 too many connections"), RateLimited, "421"),
        (greeting("554 go away"), Rejected, "554"),
        (greeting("SSH-2.0-OpenSSH_9.9"), Rejected, "no_smtp"),
        (at("EHLO", "502 no"), Rejected, "502"),
        (at("MAIL", "550 5.7.1 not your sender"), Rejected, "550"),
        (at("MAIL", "553 5.1.8 no such domain"), Permanent, "553"),
        (at("MAIL", "452 4.3.1 disk full"), RateLimited, "452"),
        (at("RCPT", "550 5.1.1 no such user"), Permanent, "550"),
        (at("RCPT", "450 4.2.0 greylisted"), RateLimited, "450"),
        (at("RCPT", "432 4.2.1 down"), Rejected, "432"),
        (at("RCPT", "!421 4.3.2 shutting down"), RateLimited, "421"),
        (at("RCPT", ""), Rejected, "connection_lost"),
        (at("RCPT", "?"), Rejected, "timeout"),
        (at("DATA", "554 5.5.1 no"), Permanent, "554"),
        (at("DATA", "451 later"), RateLimited, "451"),
        (at("DATA", "250 what"), Rejected, "250"),
        (at("DATA", ""), Rejected, "connection_lost"),
        (end("552 5.3.4 too big"), Permanent, "552"),
        (end("451 4.3.0 later"), RateLimited, "451"),
        (end("432 4.2.1 down"), Rejected, "432"),
        (end("354 what"), Ambiguous, "354"),
        (end("hello?"), Ambiguous, "no_smtp"),
        (end(""), Ambiguous, "connection_lost"),
        (end("?"), Ambiguous, "timeout"),
    ] {
        let shown = format!("{:?} {:?} {:?}", script.greeting, script.replies, script.at_end);
        assert_eq!(outcome(script).await, Err((kind, code.to_owned())), "{shown}");
    }
}

#[tokio::test]
async fn a_mailbox_that_is_gone_is_reported() {
    for (command, reply, reported) in [
        ("RCPT", "550 5.1.1 no such user", Some(Reported::Bounced)),
        ("RCPT", "550 5.2.1 disabled", Some(Reported::Bounced)),
        ("RCPT", "550 no such user, or we do not like you", None),
        ("RCPT", "550 5.7.1 we do not like you", None),
        ("RCPT", "450 4.2.1 later", None),
        ("MAIL", "550 5.1.1 what", None),
    ] {
        let server = Server::start(Script {
            replies: vec![(command, reply)],
            ..Script::default()
        })
        .await;
        let failure = send(&account(server.port, ""), &payload()).await.unwrap_err();
        assert_eq!(failure.reported, reported, "{command}: {reply}");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_inside_the_text_is_no_doubt() {
    let server = Server::start(Script {
        text_bytes_max: Some(1_000),
        ..Script::default()
    })
    .await;
    let mut mail = payload();
    // More than the buffers between two sockets hold.
    mail["body"] = json!("0123456789\n".repeat(900_000));
    let failure = send(&account(server.port, ""), &mail).await.unwrap_err();
    assert_eq!(
        (failure.kind, failure.code.as_deref()),
        (Rejected, Some("connection_lost"))
    );
}

#[tokio::test]
async fn a_server_that_is_not_there_is_no_doubt() {
    let registry = account(1, "");
    let failure = send(&registry, &payload()).await.unwrap_err();
    assert_eq!(
        (failure.kind, failure.code.as_deref()),
        (Rejected, Some("connect"))
    );
    let registry = account(25, "host = \"no.such.host.invalid\"\n");
    let failure = send(&registry, &payload()).await.unwrap_err();
    assert_eq!((failure.kind, failure.code.as_deref()), (Rejected, Some("dns")));
}

#[tokio::test]
async fn one_recipient_that_is_refused_keeps_the_message_from_all() {
    for offers in [vec![], vec!["PIPELINING"]] {
        let server = Server::start(Script {
            replies: vec![
                ("RCPT TO:<bob@", "550 5.1.1 <bob@example.com>: no such user"),
                ("RCPT TO:<eve@", "450 4.2.0 later"),
            ],
            offers,
            ..Script::default()
        })
        .await;
        let registry = account(server.port, "");
        let mut mail = payload();
        mail["to"] = json!(["ann@example.com", "Bob <bob@example.com>"]);
        mail["bcc"] = json!("eve@example.com");
        let failure = send(&registry, &mail).await.unwrap_err();
        assert_eq!((failure.kind, failure.code.as_deref()), (Permanent, Some("550")));
        assert_eq!(
            failure.message,
            "to[1] was refused: 550 5.1.1 <to[1]>: no such user; also bcc[0]; nothing was sent to the others either"
        );
        assert!(server.messages.lock().await.is_empty());
        // The connection serves the next message.
        send(&registry, &payload()).await.unwrap();
        assert_eq!(server.connections.load(Ordering::SeqCst), 1);
        assert!(server.told("RSET").await);
    }
}

#[tokio::test]
async fn connections_are_kept_and_a_stale_one_is_replaced() {
    let kept = Server::start(Script::default()).await;
    let registry = account(kept.port, "");
    for _ in 0..3 {
        send(&registry, &payload()).await.unwrap();
    }
    assert_eq!(kept.connections.load(Ordering::SeqCst), 1);

    let closing = Server::start(Script {
        messages_max: Some(1),
        ..Script::default()
    })
    .await;
    let registry = account(closing.port, "");
    for _ in 0..3 {
        send(&registry, &payload()).await.unwrap();
    }
    assert_eq!(closing.connections.load(Ordering::SeqCst), 3);
    assert_eq!(closing.messages.lock().await.len(), 3);
}

#[tokio::test]
async fn tls_is_used_where_it_is_asked_for() {
    let (acceptor, ca) = certificate();
    for (encryption, at_once) in [("tls", true), ("starttls", false)] {
        let tls = Tls {
            acceptor: acceptor.clone(),
            at_once,
        };
        let server = Server::start(Script {
            offers: vec!["STARTTLS", "AUTH PLAIN LOGIN"],
            tls: Some(tls),
            ..Script::default()
        })
        .await;
        let more = format!(
            "host = \"localhost\"\nencryption = \"{encryption}\"\nca = '''{ca}'''\nusername = \"shop\"\npassword = \"secret-1\"\n"
        );
        send(&account(server.port, &more), &payload()).await.unwrap();
        // \0shop\0secret-1
        assert!(
            server.told("AUTH PLAIN AHNob3AAc2VjcmV0LTE=").await,
            "{encryption}"
        );
        // Another name than the certificate's, and an authority that nobody knows.
        for other in [
            more.replace("\"localhost\"", "\"127.0.0.1\""),
            more.replace(&format!("ca = '''{ca}'''\n"), ""),
        ] {
            let failure = send(&account(server.port, &other), &payload()).await.unwrap_err();
            assert_eq!((failure.kind, failure.code.as_deref()), (Rejected, Some("tls")));
        }
        assert_eq!(server.messages.lock().await.len(), 1);
    }
}

#[tokio::test]
async fn without_starttls_nothing_is_said_in_the_clear() {
    for (offers, reply, code) in [
        (vec!["AUTH PLAIN"], None, "starttls_unavailable"),
        (vec!["STARTTLS", "AUTH PLAIN"], Some("454 not now"), "454"),
        (
            vec!["STARTTLS", "AUTH PLAIN"],
            Some("!220 ready\r\n250 injected"),
            "starttls_injection",
        ),
        (vec!["STARTTLS"], Some("!220 ready"), "tls"),
    ] {
        let server = Server::start(Script {
            replies: reply.map(|reply| ("STARTTLS", reply)).into_iter().collect(),
            offers,
            ..Script::default()
        })
        .await;
        let more = "encryption = \"starttls\"\nusername = \"shop\"\npassword = \"secret-1\"\n";
        let failure = send(&account(server.port, more), &payload()).await.unwrap_err();
        assert_eq!((failure.kind, failure.code.as_deref()), (Rejected, Some(code)));
        assert!(!server.told("AUTH").await && !server.told("MAIL").await);
    }
}

#[tokio::test]
async fn logins_are_made_as_the_server_offers_and_never_shown() {
    let login = "username = \"shop-user\"\npassword = \"secret-1\"\n";
    let server = Server::start(Script {
        offers: vec!["AUTH LOGIN"],
        replies: vec![
            ("AUTH LOGIN", "334 VXNlcm5hbWU6"),
            ("c2hvcC11c2Vy", "334 UGFzc3dvcmQ6"),
            (
                "c2VjcmV0LTE=",
                "535 5.7.8 shop-user with secret-1 is not known here",
            ),
        ],
        ..Script::default()
    })
    .await;
    let failure = send(&account(server.port, login), &payload()).await.unwrap_err();
    assert_eq!((failure.kind, failure.code.as_deref()), (Rejected, Some("535")));
    assert_eq!(
        failure.message,
        "the login was refused: 535 5.7.8 *** with *** is not known here"
    );
    let server = Server::start(Script {
        offers: vec!["AUTH CRAM-MD5"],
        ..Script::default()
    })
    .await;
    let failure = send(&account(server.port, login), &payload()).await.unwrap_err();
    assert_eq!(failure.code.as_deref(), Some("auth_unavailable"));
}

#[test]
fn a_wrong_account_is_refused_by_the_name_of_its_key() {
    let sandbox = Some("http://127.0.0.1:9/sandbox");
    for (lines, key) in [
        ("host = \"not a host\"", "host"),
        ("host = \"a.example\"\nport = 70000", "port"),
        ("host = \"a.example\"\nencryption = \"ssl\"", "encryption"),
        ("host = \"a.example\"\nusername = \"u\"", "password"),
        ("host = \"a.example\"\npassword = \"p\"", "username"),
        ("password = \"p\"", "host"),
        (
            "host = \"a.example\"\nencryption = \"none\"\nusername = \"u\"\npassword = \"p\"",
            "encryption",
        ),
        ("host = \"a.example\"\nca = \"x\"", "ca"),
        ("host = \"a.example\"\nhelo_name = \"a b\"", "helo_name"),
        ("host = \"a.example\"\nreturn_path = \"nobody\"", "return_path"),
        (
            "host = \"a.example\"\nbase_url = \"http://a.example\"",
            "base_url",
        ),
        ("host = \"a.example\"\nhots = \"b\"", "hots"),
    ] {
        let error = load(&format!("[providers.smtp]\n{lines}"), sandbox)
            .err()
            .unwrap();
        let error = error.to_string();
        assert!(
            error.contains(&format!("providers.smtp.{key}")),
            "{lines}: {error}"
        );
    }
}
