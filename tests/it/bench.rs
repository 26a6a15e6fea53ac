//! `posthaste bench`, as a user runs it beside a running system.

use crate::{
    on_each_backend,
    system::{Backend, Plan, posthaste, run_command},
};

on_each_backend!(what_it_sends_is_seen_to_come_through);

async fn what_it_sends_is_seen_to_come_through(backend: Backend) {
    let system = Plan::new(backend).await.start().await;
    let client = system.client();
    let mut command = posthaste(&[]);
    command
        .args(["bench", "--events", "200", "--for", "1s", "--settle", "60"])
        .args(["--url", &client.intake("")])
        .args(["--status-url", client.status_url()])
        .args(["--sandbox", &system.sandbox_url()]);
    run_command(command).await;
}
