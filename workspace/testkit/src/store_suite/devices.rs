//! Devices of users.

use posthaste_store::{Device, Devices};

use super::outage::in_the_end;
use crate::life::NOW;

fn device(user: &str, token: &str, at: i64) -> Device {
    Device {
        id: format!("id-{token}"),
        tenant: "acme".to_owned(),
        user: user.to_owned(),
        token: token.to_owned(),
        provider: None,
        at,
        expires_at: None,
    }
}

async fn tokens(devices: &dyn Devices, tenant: &str, user: &str) -> Vec<String> {
    let found = in_the_end(async || devices.devices(tenant, user, NOW, 10).await).await;
    found.into_iter().map(|device| device.token).collect()
}

/// A device has one user, the last one; another tenant's is another device.
pub async fn a_device_belongs_to_whoever_registered_it_last(devices: &dyn Devices) {
    let whole = Device {
        provider: Some("apns".to_owned()),
        expires_at: Some(NOW + 60_000_000_000),
        ..device("ann", "t1", NOW)
    };
    in_the_end(async || devices.register(&whole, 10).await).await;
    in_the_end(async || devices.register(&whole, 10).await).await;
    assert_eq!(
        in_the_end(async || devices.devices("acme", "ann", NOW, 10).await).await,
        std::slice::from_ref(&whole)
    );
    let other = Device {
        tenant: "other".to_owned(),
        ..whole.clone()
    };
    in_the_end(async || devices.register(&other, 10).await).await;
    in_the_end(async || devices.register(&device("bob", "t1", NOW + 1), 10).await).await;
    assert_eq!(tokens(devices, "acme", "ann").await, Vec::<String>::new());
    assert_eq!(tokens(devices, "acme", "bob").await, ["t1"]);
    assert_eq!(
        in_the_end(async || devices.devices("other", "ann", NOW, 10).await).await,
        [other]
    );
    assert!(!in_the_end(async || devices.unregister("third", "id-t1").await).await);
    assert!(in_the_end(async || devices.unregister("acme", "id-t1").await).await);
    assert!(!in_the_end(async || devices.unregister("acme", "id-t1").await).await);
    assert_eq!(tokens(devices, "acme", "bob").await, Vec::<String>::new());
    assert_eq!(tokens(devices, "other", "ann").await, ["t1"]);
}

/// Those that were not seen for longest go when there are too many.
pub async fn a_user_has_so_many_devices_and_the_newest_are_kept(devices: &dyn Devices) {
    for (token, at) in [("a", 3), ("b", 1), ("c", 2), ("b", 4), ("d", 5)] {
        devices
            .register(&device("ann", token, NOW + at), 3)
            .await
            .unwrap();
    }
    in_the_end(async || devices.register(&device("bob", "e", NOW), 3).await).await;
    assert_eq!(tokens(devices, "acme", "ann").await, ["d", "b", "a"]);
    assert_eq!(
        in_the_end(async || devices.devices("acme", "ann", NOW, 2).await)
            .await
            .len(),
        2
    );
    assert_eq!(tokens(devices, "acme", "bob").await, ["e"]);
}

/// What is over is not there any more, and forgotten a few at a time.
pub async fn a_device_whose_time_is_over_is_forgotten(devices: &dyn Devices) {
    for (token, end) in [
        ("a", Some(NOW)),
        ("b", Some(NOW - 1)),
        ("c", Some(NOW + 60_000_000_000)),
        ("d", None),
    ] {
        let device = Device {
            expires_at: end,
            ..device("ann", token, NOW)
        };
        in_the_end(async || devices.register(&device, 10).await).await;
    }
    assert_eq!(tokens(devices, "acme", "ann").await, ["c", "d"]);
    // The server may have forgotten them by itself.
    let mut left = 0;
    for _ in 0..3 {
        let gone = in_the_end(async || devices.forget_devices(NOW, 1).await).await;
        assert!(gone <= 1);
        left += gone;
    }
    assert!(left <= 2, "{left}");
    assert_eq!(
        in_the_end(async || devices.devices("acme", "ann", NOW - 10, 10).await)
            .await
            .len(),
        2
    );
}
