//! Commands that talk to a running Posthaste over HTTP.

use std::{io::Read as _, sync::OnceLock, time::Duration};

use reqwest::{
    Client, RequestBuilder, Response, StatusCode, Url,
    header::{AUTHORIZATION, HeaderMap, HeaderValue},
};
use serde_json::{Map, Value as Json, json};

use crate::{
    cli::{Ask, Common, Events, Place, Send},
    command::{print, print_json, runtime},
    configuration,
    failure::Failure,
    run, tail,
};

/// Longest wait for an answer: longer than the service's own limits, so that its words arrive.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Longest wait for the answer to a health check, which is at hand: whoever asks regularly must not pile up.
const HEALTH_LIMIT: Duration = Duration::from_secs(5);

/// The port of `posthaste up` and of ingestion.
const FIRST_PORT: u16 = 3000;

/// Largest answer that is read, in bytes: a page of the largest events is smaller.
const ANSWER_BYTES_MAX: usize = 512 << 20;

/// Largest event read from a file or from standard input, in bytes; the service says what it takes.
const EVENT_BYTES_MAX: u64 = 64 << 20;

/// `posthaste health`.
pub fn health(common: &Common, url: Option<&str>) -> Result<(), Failure> {
    let url = match url {
        Some(url) => address(url, "ready")?,
        None => {
            let configuration = configuration::load(common, &Place::default())?;
            let settings = configuration::settings(&configuration)?;
            let listens = settings.service.listen_address(FIRST_PORT);
            let listens = listens.map_err(|error| configuration.refuse(&error))?;
            address(&run::url_of(listens), "ready")?
        }
    };
    let (status, answer) = exchange(client()?.get(url).timeout(HEALTH_LIMIT))?;
    let missing = list_of(&answer, "missing");
    let missing: Vec<String> = missing
        .iter()
        .map(|missing| format!("{}: {}", text(missing, "name"), text(missing, "reason")))
        .collect();
    match (status.is_success(), missing.is_empty()) {
        (true, true) => print("ready\n"),
        (true, false) => print(&format!("ready, but missing {}\n", missing.join(", "))),
        (false, false) => Err(Failure::Runtime(format!("not ready: {}", missing.join(", ")))),
        (false, true) => Err(Failure::Runtime(problem(status, &answer))),
    }
}

/// `posthaste send`.
pub fn send(send: Box<Send>) -> Result<(), Failure> {
    let url = address(&send.url, "event")?;
    let body = event(&send)?;
    let mut request = client()?
        .post(url)
        .header("content-type", "application/json")
        .body(body);
    if let Some(id) = &send.correlation_id {
        request = request.header("x-correlation-id", id);
    }
    let answer = ask(request)?;
    if send.json {
        return print_json(&answer);
    }
    print(&format!(
        "{}: event {} is {}\n",
        text(&answer, "message"),
        text(&answer, "eventId"),
        text(&answer, "status")
    ))
}

fn event(send: &Send) -> Result<String, Failure> {
    if let Some(file) = &send.file {
        let mut text = String::new();
        let read = if file.as_os_str() == "-" {
            std::io::stdin().take(EVENT_BYTES_MAX).read_to_string(&mut text)
        } else {
            std::fs::File::open(file).and_then(|file| file.take(EVENT_BYTES_MAX).read_to_string(&mut text))
        };
        read.map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))?;
        return Ok(text);
    }
    let (Some(channel), Some(payload)) = (&send.channel, &send.payload) else {
        return Err(Failure::Usage(
            "nothing to send; accepted: a file, - for standard input, or --channel and --payload".to_owned(),
        ));
    };
    let mut event = Map::new();
    event.insert("channel".to_owned(), channel.as_str().into());
    event.insert("payload".to_owned(), json_option("--payload", payload)?);
    if let Some(metadata) = &send.metadata {
        event.insert("metadata".to_owned(), json_option("--metadata", metadata)?);
    }
    for (name, value) in [
        ("priority", &send.priority),
        ("provider", &send.provider),
        ("eventId", &send.event_id),
        ("tenant", &send.tenant),
        ("scheduledAt", &send.scheduled_at),
        ("expiresAt", &send.expires_at),
    ] {
        if let Some(value) = value {
            event.insert(name.to_owned(), value.as_str().into());
        }
    }
    if let Some(ttl) = send.ttl {
        event.insert("ttl".to_owned(), ttl.into());
    }
    if send.urgent {
        event.insert("urgent".to_owned(), true.into());
    }
    Ok(Json::Object(event).to_string())
}

fn json_option(option: &str, text: &str) -> Result<Json, Failure> {
    serde_json::from_str(text).map_err(|error| Failure::Usage(format!("{option} is not JSON: {error}")))
}

/// `posthaste events …`.
pub fn events(command: Events) -> Result<(), Failure> {
    match command {
        Events::Get { id, timeline, ask } => get(&id, timeline, &ask),
        Events::RetryNow { id, ask } => retry_now(&id, &ask),
        Events::Cancel { id, ask } => cancel(&id, &ask),
        Events::Reschedule { id, at, ask } => reschedule(&id, &at, &ask),
        Events::Tail(options) => tail::tail(&options),
        Events::List {
            status,
            channel,
            tenant,
            provider,
            correlation_id,
            from,
            until,
            limit,
            cursor,
            ask,
        } => {
            let limit = Some(limit.to_string());
            let query = [
                ("status", status),
                ("channel", channel),
                ("tenant", tenant),
                ("provider", provider),
                ("correlationId", correlation_id),
                ("from", from),
                ("until", until),
                ("limit", limit),
                ("cursor", cursor),
            ];
            list(&query, &ask)
        }
    }
}

/// What is known of one event.
pub fn event_of(base: &str, id: &str) -> Result<Json, Failure> {
    look_up(base, id, false)
}

fn look_up(base: &str, id: &str, timeline: bool) -> Result<Json, Failure> {
    let parts: &[&str] = if timeline { &[id, "timeline"] } else { &[id] };
    ask(client()?.get(of_event(base, parts)?))
}

fn of_event(base: &str, parts: &[&str]) -> Result<Url, Failure> {
    let mut url = address(base, "events")?;
    match url.path_segments_mut() {
        Ok(mut path) => path.extend(parts),
        Err(()) => return Err(Failure::Usage(format!("{base} cannot be asked"))),
    };
    Ok(url)
}

fn cancel(id: &str, options: &Ask) -> Result<(), Failure> {
    let answer = ask(client()?.delete(of_event(&options.url, &[id])?))?;
    if options.json {
        return print_json(&answer);
    }
    print(&format!(
        "event {id} ({}) is asked to be withdrawn; `posthaste events get {id}` tells whether that came in time\n",
        text(&answer, "status")
    ))
}

fn reschedule(id: &str, at: &str, options: &Ask) -> Result<(), Failure> {
    let body = json!({"scheduledAt": at});
    let answer = ask(client()?.patch(of_event(&options.url, &[id])?).json(&body))?;
    if options.json {
        return print_json(&answer);
    }
    print(&format!(
        "event {id} is asked to go at {}; that is in force by {} at the latest\n",
        text(&answer, "scheduledAt"),
        text(&answer, "inForceBy")
    ))
}

fn retry_now(id: &str, options: &Ask) -> Result<(), Failure> {
    let answer = ask(client()?.post(of_event(&options.url, &[id, "retry-now"])?))?;
    if options.json {
        return print_json(&answer);
    }
    print(&format!(
        "event {id} is asked to go now, not at {}; `posthaste events get {id} --timeline` tells what becomes of it\n",
        text(&answer, "dueAt")
    ))
}

fn get(id: &str, timeline: bool, options: &Ask) -> Result<(), Failure> {
    let answer = look_up(&options.url, id, timeline)?;
    if options.json {
        return print_json(&answer);
    }
    let mut lines = String::new();
    if timeline {
        lines.extend(list_of(&answer, "timeline").iter().map(step));
    } else {
        // An id that belongs to several events gives them all.
        let events = match list_of(&answer, "events") {
            [] => std::slice::from_ref(&answer),
            events => events,
        };
        for event in events {
            lines.push_str(&line(event));
            lines.extend(list_of(event, "timeline").iter().map(step));
        }
    }
    print(&lines)
}

fn list(query: &[(&str, Option<String>)], options: &Ask) -> Result<(), Failure> {
    let mut url = address(&options.url, "events")?;
    {
        let mut pairs = url.query_pairs_mut();
        for (name, value) in query {
            if let Some(value) = value {
                pairs.append_pair(name, value);
            }
        }
    }
    let answer = ask(client()?.get(url))?;
    if options.json {
        return print_json(&answer);
    }
    let events = list_of(&answer, "events");
    let mut lines: String = events.iter().map(line).collect();
    match answer["next"].as_str() {
        Some(next) => lines.push_str(&format!("more: --cursor {next}\n")),
        None if events.is_empty() => lines.push_str("no events\n"),
        None => {}
    }
    print(&lines)
}

fn line(event: &Json) -> String {
    let state = &event["state"];
    let line = format!(
        "{}  {}  {:13} {:8} {:12} {}",
        text(event, "eventId"),
        text(event, "createdAt"),
        text(event, "status"),
        text(event, "channel"),
        text(state, "provider"),
        text(&state["error"], "message"),
    );
    format!("{}\n", line.trim_end())
}

fn step(step: &Json) -> String {
    let told = [
        text(step, "eventId"),
        text(step, "at"),
        &format!("{:13}", text(step, "status")),
        text(step, "provider"),
        text(step, "reason"),
        text(step, "rule"),
        text(&step["error"], "message"),
    ];
    let told: Vec<&str> = told.into_iter().filter(|part| !part.is_empty()).collect();
    format!("  {:>3}  {}\n", step["step"], told.join("  ").trim_end())
}

pub fn list_of<'a>(value: &'a Json, key: &str) -> &'a [Json] {
    value[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

pub fn text<'a>(value: &'a Json, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("")
}

pub fn address(base: &str, path: &str) -> Result<Url, Failure> {
    let url = Url::parse(base)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or_else(|| {
            Failure::Usage(format!(
                "--url {base:?} is no address; accepted: such as http://127.0.0.1:3000"
            ))
        })?;
    let mut url = url;
    let joined = format!("{}/{path}", url.path().trim_end_matches('/'));
    url.set_path(&joined);
    Ok(url)
}

/// What every request of this process says who it is with.
static TOKEN: OnceLock<HeaderValue> = OnceLock::new();

/// Takes a token or an API key to ask with from now on.
pub fn identify(token: &str) -> Result<(), Failure> {
    let value = HeaderValue::try_from(format!("Bearer {token}"))
        .ok()
        .filter(|_| !token.trim().is_empty());
    let mut value = value.ok_or_else(|| {
        Failure::Usage("--token cannot be sent; accepted: visible ASCII characters".to_owned())
    })?;
    value.set_sensitive(true);
    let _first = TOKEN.set(value);
    Ok(())
}

/// The headers of every request.
pub fn headers() -> HeaderMap {
    let token = TOKEN.get().cloned();
    token.into_iter().map(|token| (AUTHORIZATION, token)).collect()
}

pub fn client() -> Result<Client, Failure> {
    Client::builder()
        .default_headers(headers())
        .timeout(ANSWER_LIMIT)
        .build()
        .map_err(Failure::runtime)
}

/// Asks, and gives the answer if it is a good one; a problem document becomes the failure's words.
pub fn ask(request: RequestBuilder) -> Result<Json, Failure> {
    let (status, answer) = exchange(request)?;
    if status.is_success() {
        return Ok(answer);
    }
    Err(Failure::Runtime(problem(status, &answer)))
}

pub fn exchange(request: RequestBuilder) -> Result<(StatusCode, Json), Failure> {
    let (status, body) = runtime()?.block_on(async {
        let response = request.send().await.map_err(|error| unreachable(&error))?;
        Ok::<_, Failure>((response.status(), body_of(response).await?))
    })?;
    let answer = serde_json::from_str(&body).unwrap_or_else(|_| json!({ "detail": body.trim() }));
    Ok((status, answer))
}

/// The body as text, if it is one that a service of ours could give.
pub async fn body_of(mut response: Response) -> Result<String, Failure> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|error| unreachable(&error))? {
        body.extend_from_slice(&piece);
        if body.len() > ANSWER_BYTES_MAX {
            return Err(Failure::Runtime(format!(
                "the answer at {} is larger than {ANSWER_BYTES_MAX} bytes; is a Posthaste there?",
                response.url()
            )));
        }
    }
    Ok(String::from_utf8_lossy(&body).into_owned())
}

pub fn problem(status: StatusCode, answer: &Json) -> String {
    let mut lines = vec![format!("{status}: {}", text(answer, "detail"))];
    let errors = list_of(answer, "errors");
    if !errors.is_empty() {
        lines = vec![format!("{status}")];
        lines.extend(errors.iter().map(|error| {
            format!(
                "{}: {}; accepted: {}",
                text(error, "field"),
                text(error, "problem"),
                text(error, "accepted")
            )
        }));
    }
    if let Some(id) = answer["eventId"].as_str() {
        lines.push(format!("it was about event {id}"));
    }
    lines.join("\n")
}

pub fn unreachable(error: &reqwest::Error) -> Failure {
    let place = error.url().map_or_else(String::new, |url| format!(" at {url}"));
    if error.is_connect() {
        return Failure::Runtime(format!(
            "nothing answers{place}; is it running? `posthaste up` starts it, --url says where it is"
        ));
    }
    if error.is_timeout() {
        return Failure::Runtime(format!("no answer in time{place}"));
    }
    Failure::runtime(error)
}
