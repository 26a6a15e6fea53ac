//! Puts the services of this process together.

use std::{path::PathBuf, sync::Arc, time::Duration};

use axum::Router;
use posthaste_broadcast::Broadcasts;
use posthaste_broker::Broker;
use posthaste_definitions::suppressions;
use posthaste_dispatcher::{Accounts, Dispatcher, LaneName};
use posthaste_ingestion::{
    Beside, Ingestion, ProviderNames,
    templates::{Catalog, Folder},
};
use posthaste_provider::Registry;
use posthaste_replay::Replay;
use posthaste_retry::RulesJudge;
use posthaste_rules::Rules;
use posthaste_sealing::Sealer;
use posthaste_service::{config::Origin, requests};
use posthaste_status::{Follow, Positions, Projector, Rebuilds};
use posthaste_store::{Devices, Store};
use tokio::sync::watch;

use super::{
    Mode, Process, Role,
    backends::{self, Stores},
    tasks::Tasks,
};
use crate::{configuration, failure::Failure};

/// What was started.
pub struct Started {
    /// The paths to serve.
    pub routes: Router,
    /// To be closed last; the sandbox alone has none.
    pub broker: Option<Arc<dyn Broker>>,
}

/// What the user can get wrong, made before anything waits for anything.
struct Prepared {
    names: ProviderNames,
    folder: Folder,
    rules: Option<Rules>,
    stores: Option<Stores>,
    accounts: Option<Arc<dyn Accounts>>,
}

/// Starts the services: their loops as tasks, their paths as the routes that are given back.
pub async fn start(process: &Process, roles: &[Role], tasks: &mut Tasks) -> Result<Started, Failure> {
    let mut prepared = process.prepare(roles)?;
    let mut routes = Router::new();
    if roles.contains(&Role::Sandbox) {
        routes = routes.merge(posthaste_sandbox::router(&process.settings.sandbox));
    }
    if roles.iter().all(|role| *role == Role::Sandbox) {
        return Ok(Started { routes, broker: None });
    }
    let broker = backends::broker(process).await?;
    let groups = roles.iter().flat_map(Role::groups).collect();
    process.lag.follow(Arc::clone(&broker), groups);
    if roles.iter().any(Role::hears_requests) {
        process.follow_requests(&broker, tasks);
    }
    if !process.definitions.is_needless() {
        process.follow_definitions(&broker, tasks);
    }
    if roles.iter().any(Role::hears_suppressions) {
        process.follow_suppressions(&broker, tasks);
    }
    if roles.iter().any(Role::needs_keys) {
        process.follow_keys(tasks);
    }
    for role in roles {
        match role {
            Role::Ingestion => {
                if process.mode == Mode::Alone {
                    backends::topics(process, &broker).await?;
                }
                if let Some(stores) = &prepared.stores {
                    let folder = std::mem::take(&mut prepared.folder);
                    routes = routes.merge(process.ingestion(&broker, stores, &prepared.names, folder, tasks));
                }
            }
            Role::Dispatcher(lanes) => {
                if let (Some(accounts), Some(stores)) = (&prepared.accounts, &prepared.stores) {
                    process.start_dispatcher(&broker, accounts, &stores.devices, lanes, tasks);
                }
            }
            Role::Retry => {
                if let Some(rules) = prepared.rules.take() {
                    process.start_retry(&broker, rules, prepared.names.clone(), tasks);
                    process.start_janitor(&broker, tasks);
                }
            }
            Role::Replay => routes = routes.merge(process.start_replay(&broker, tasks)?),
            Role::Status => {
                if let Some(stores) = &prepared.stores {
                    routes = routes.merge(process.start_status(&broker, &stores.status, tasks)?);
                }
            }
            Role::Sandbox => {}
        }
    }
    Ok(Started {
        routes,
        broker: Some(broker),
    })
}

fn start_beside(beside: Beside, tasks: &mut Tasks) {
    tasks.spawn("what is done for requests with keys", async move {
        beside.run().await;
        Ok(())
    });
}

impl Process {
    fn prepare(&self, roles: &[Role]) -> Result<Prepared, Failure> {
        let settings = &self.settings;
        let names = configuration::provider_names(&self.configuration, settings)?;
        let folder = if roles.contains(&Role::Ingestion) {
            Folder::read(&settings.ingestion, &names).map_err(Failure::Usage)?
        } else {
            Folder::default()
        };
        let rules = if roles.contains(&Role::Retry) {
            Some(configuration::rules(settings, &names)?)
        } else {
            None
        };
        let stores = if roles.iter().any(Role::needs_store) {
            Some(backends::stores(self)?)
        } else {
            None
        };
        let dispatches = roles.iter().any(|role| matches!(role, Role::Dispatcher(_)));
        let accounts = match &stores {
            Some(stores) if dispatches => Some(self.accounts(roles, &stores.status)?),
            _ => None,
        };
        Ok(Prepared {
            names,
            folder,
            rules,
            stores,
            accounts,
        })
    }

    fn accounts(&self, roles: &[Role], store: &Arc<dyn Store>) -> Result<Arc<dyn Accounts>, Failure> {
        let sandbox = roles
            .contains(&Role::Sandbox)
            .then(|| format!("{}/sandbox", self.url()));
        Registry::load(&self.settings.provider, sandbox.as_deref(), Arc::clone(store))
            .map(|registry| Arc::new(registry) as Arc<dyn Accounts>)
            .map_err(|error| configuration::provider_failure(&self.configuration, error))
    }

    fn ingestion(
        &self,
        broker: &Arc<dyn Broker>,
        stores: &Stores,
        names: &ProviderNames,
        folder: Folder,
        tasks: &mut Tasks,
    ) -> Router {
        let (claims, devices) = (Arc::clone(&stores.claims), Arc::clone(&stores.devices));
        let stop = tasks.stop();
        tasks.spawn("the sweep of idempotency keys and devices", async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = posthaste_ingestion::sweep(claims, devices) => {}
            }
            Ok(())
        });
        let catalog = Arc::new(Catalog::new(
            Arc::clone(&self.definitions),
            Arc::clone(broker),
            names.clone(),
            self.settings.ingestion.clone(),
            Arc::clone(&self.instance),
        ));
        let (putting, stop) = (Arc::clone(&catalog), tasks.stop());
        tasks.spawn("the putting of the folder's definitions", async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = folder.put(&putting) => stop.cancelled().await,
            }
            Ok(())
        });
        let broadcasts = self.start_broadcasts(broker, tasks);
        let (lists, keys, stop) = (Arc::clone(&stores.lists), Arc::clone(&self.keys), tasks.stop());
        tasks.spawn("the sweep of lists", async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = posthaste_ingestion::sweep_lists(lists, keys) => {}
            }
            Ok(())
        });
        let suppressions =
            posthaste_ingestion::suppressions::router(Arc::clone(broker), Arc::clone(&self.suppressions));
        let Stores { lists, tallies, .. } = stores.clone();
        let (ingestion, beside) = Ingestion::new(
            Arc::clone(broker),
            (Arc::clone(&stores.claims), Arc::clone(&stores.status)),
            Duration::from_millis(self.settings.broker.append_timeout_ms),
            names.clone(),
            catalog,
            (broadcasts, lists, tallies, self.settings.broadcast.clone()),
            Sealer::new(Arc::clone(&self.keys), self.settings.encryption.clone()),
            self.settings.ingestion.clone(),
            Arc::clone(&self.instance),
            &self.health,
            Arc::clone(&self.metrics),
        );
        start_beside(beside, tasks);
        let devices = posthaste_ingestion::devices::router(
            Arc::clone(&stores.devices),
            Arc::clone(&self.suppressions),
            Arc::clone(broker),
            names.clone(),
            self.settings.ingestion.clone(),
        );
        let routes = ingestion.router().merge(suppressions).merge(devices);
        if self.settings.ingestion.inbox && backends::has_kafka(&self.settings) {
            let (health, stop) = (self.health.clone(), tasks.stop());
            tasks.spawn("the reading of the inbox", async move {
                let taking = ingestion.take_inbox(&health, stop);
                taking.await.map_err(|error| error.to_string())
            });
        }
        routes.merge(self.api_keys(broker))
    }

    fn api_keys(&self, broker: &Arc<dyn Broker>) -> Router {
        posthaste_ingestion::keys::router(
            Arc::clone(&self.definitions),
            Arc::clone(broker),
            self.settings.ingestion.clone(),
            Arc::clone(&self.instance),
        )
    }

    /// Hands over what is meant for many. Gives what is known of it.
    fn start_broadcasts(&self, broker: &Arc<dyn Broker>, tasks: &mut Tasks) -> Arc<Broadcasts> {
        let broadcasts = Arc::new(Broadcasts::default());
        let worker = posthaste_broadcast::Worker::new(
            Arc::clone(broker),
            Arc::clone(&broadcasts),
            self.settings.broadcast.clone(),
            Arc::clone(&self.instance),
            &self.health,
        );
        let (worker, stop) = (Arc::new(worker), tasks.stop());
        tasks.spawn("the handing over of broadcasts", async move {
            worker.run(stop).await.map_err(|error| error.to_string())
        });
        broadcasts
    }

    /// What is asked of events; all services of the process share it.
    fn follow_requests(&self, broker: &Arc<dyn Broker>, tasks: &mut Tasks) {
        let (broker, requests, stop) = (Arc::clone(broker), Arc::clone(&self.requests), tasks.stop());
        let known = Arc::clone(&requests);
        self.health.check("requests", move || {
            known
                .is_known()
                .then_some(())
                .ok_or_else(|| "what was asked of events is not read yet".to_owned())
        });
        tasks.spawn("the following of requests", async move {
            requests::follow(&broker, &requests, &stop).await;
            Ok(())
        });
    }

    /// The keys of sealed payloads; all services of the process share them.
    fn follow_keys(&self, tasks: &mut Tasks) {
        let keys = Arc::clone(&self.keys);
        let known = Arc::clone(&keys);
        self.health.check_lesser("encryption", move || known.check());
        let Some(source) = self.settings.encryption.source() else {
            return;
        };
        let (every, stop) = (
            Duration::from_millis(self.settings.encryption.keys_poll_ms),
            tasks.stop(),
        );
        tasks.spawn("the following of keys", async move {
            posthaste_sealing::follow(&keys, source, every, &stop).await;
            // Keys that cannot change are followed until the end, too.
            stop.cancelled().await;
            Ok(())
        });
    }

    /// What users have defined; all services of the process share it.
    fn follow_definitions(&self, broker: &Arc<dyn Broker>, tasks: &mut Tasks) {
        let (broker, definitions, stop) = (Arc::clone(broker), Arc::clone(&self.definitions), tasks.stop());
        let known = Arc::clone(&definitions);
        self.health.check("definitions", move || known.check());
        tasks.spawn("the following of definitions", async move {
            posthaste_definitions::follow(&broker, &definitions, &stop).await;
            Ok(())
        });
    }

    /// Who is suppressed; all services of the process share it.
    fn follow_suppressions(&self, broker: &Arc<dyn Broker>, tasks: &mut Tasks) {
        let (broker, suppressions, stop) = (Arc::clone(broker), Arc::clone(&self.suppressions), tasks.stop());
        let known = Arc::clone(&suppressions);
        self.health.check("suppressions", move || known.check());
        tasks.spawn("the following of suppressions", async move {
            suppressions::follow(&broker, &suppressions, &stop).await;
            Ok(())
        });
    }

    fn start_dispatcher(
        &self,
        broker: &Arc<dyn Broker>,
        accounts: &Arc<dyn Accounts>,
        devices: &Arc<dyn Devices>,
        lanes: &[LaneName],
        tasks: &mut Tasks,
    ) {
        let dispatcher = Arc::new(Dispatcher::new(
            Arc::clone(broker),
            Arc::clone(accounts),
            self.settings.dispatcher.clone(),
            Arc::clone(&self.instance),
            self.health.clone(),
            Arc::clone(&self.metrics),
            Arc::clone(&self.requests),
            Arc::clone(&self.suppressions),
            Arc::clone(&self.keys),
            Arc::clone(devices),
        ));
        for &lane in lanes {
            let (dispatcher, stop) = (Arc::clone(&dispatcher), tasks.stop());
            tasks.spawn(format!("the {lane} dispatcher"), async move {
                dispatcher
                    .run(lane, stop)
                    .await
                    .map_err(|error| error.to_string())
            });
        }
    }

    fn start_janitor(&self, broker: &Arc<dyn Broker>, tasks: &mut Tasks) {
        let (broker, settings) = (Arc::clone(broker), self.settings.broker.clone());
        let stop = tasks.stop();
        tasks.spawn("the janitor", async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = posthaste_broker::janitor::run(broker.as_ref(), &settings) => {}
            }
            Ok(())
        });
    }

    fn start_retry(&self, broker: &Arc<dyn Broker>, rules: Rules, names: ProviderNames, tasks: &mut Tasks) {
        let (broker, settings) = (Arc::clone(broker), self.settings.retry.clone());
        let (instance, health, stop) = (Arc::clone(&self.instance), self.health.clone(), tasks.stop());
        let (metrics, requests) = (Arc::clone(&self.metrics), Arc::clone(&self.requests));
        let schedules = Arc::clone(&self.definitions);
        tasks.spawn("the retry service", async move {
            let (sender, rules) = watch::channel(Arc::new(rules));
            let file = settings.rules_file.clone();
            let judge: RulesJudge = Box::new(move |text| configuration::rules_of(text, &file, &names));
            let follow = posthaste_retry::follow(&settings, judge, &sender, &health, &metrics, &stop);
            let run = posthaste_retry::run(
                &settings,
                broker,
                rules,
                requests,
                schedules,
                instance,
                &health,
                Arc::clone(&metrics),
                stop.clone(),
            );
            tokio::pin!(run);
            // Following ends with the stop, or at once when there is no file; the service decides when it is over.
            let ended = tokio::select! {
                ended = &mut run => ended,
                () = follow => run.await,
            };
            ended.map_err(|error| error.to_string())
        });
    }

    fn start_replay(&self, broker: &Arc<dyn Broker>, tasks: &mut Tasks) -> Result<Router, Failure> {
        let replay = Replay::new(
            Arc::clone(broker),
            self.settings.replay.clone(),
            self.settings.provider.provider.defaults.clone(),
            Arc::clone(&self.instance),
            &self.health,
            self.own_folder()?,
        );
        let (router, stop) = (replay.router(), tasks.stop());
        tasks.spawn("the replay service", async move {
            replay.run(stop).await.map_err(|error| error.to_string())
        });
        Ok(router)
    }

    fn start_status(
        &self,
        broker: &Arc<dyn Broker>,
        store: &Arc<dyn Store>,
        tasks: &mut Tasks,
    ) -> Result<Router, Failure> {
        let projector = Projector {
            broker: Arc::clone(broker),
            store: Arc::clone(store),
            positions: if backends::has_kafka(&self.settings) {
                Positions::InBroker
            } else {
                Positions::InStore
            },
            retention_ms: self.settings.store.retention_ms(),
        };
        let (settings, health, stop) = (self.settings.status.clone(), self.health.clone(), tasks.stop());
        let follow = Follow::new(Arc::clone(broker), tasks.stop());
        tasks.spawn("the status service", async move {
            posthaste_status::run(&settings, projector, &health, stop)
                .await
                .map_err(|error| error.to_string())
        });
        let rebuilds = Rebuilds::new(
            Arc::clone(broker),
            Arc::clone(store),
            &self.settings.store,
            self.own_folder()?,
            tasks.stop(),
        );
        let draining = rebuilds.clone();
        tasks.spawn("the rebuild of the status", async move {
            draining.drain().await;
            Ok(())
        });
        let (broker, asked, stop) = (Arc::clone(broker), Arc::clone(&self.requests), tasks.stop());
        let known = Arc::clone(store);
        tasks.spawn("the forgetting of what was asked too late", async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = posthaste_status::overtaken::run(&broker, &known, &asked) => {}
            }
            Ok(())
        });
        Ok(posthaste_status::router(
            Arc::clone(store),
            follow,
            rebuilds,
            Arc::clone(&self.requests),
            self.settings.ingestion.ahead_days_max,
            Arc::clone(&self.keys),
        ))
    }

    /// The data folder, if it is this process's own: alone, only one that somebody named for it. Several processes may be
    /// started in the same place.
    fn own_folder(&self) -> Result<Option<PathBuf>, Failure> {
        let named = self.configuration.value("service.data_dir");
        let is_default = named.is_none_or(|(_, origin)| *origin == Origin::Default);
        if self.mode == Mode::Alone && is_default {
            return Ok(None);
        }
        backends::data_folder(&self.settings).map(|folder| Some(folder.to_owned()))
    }
}
