//! Stored lists: there when their last page is, each tenant's own, and readable to the end by whoever has begun.

use posthaste_store::{List, Lists};

use crate::life::NOW;

fn list(tenant: &str, code: &str, version: &str, pages: u32) -> List {
    List {
        tenant: tenant.to_owned(),
        code: code.to_owned(),
        version: version.to_owned(),
        recipients: u64::from(pages) * 1_000_000_007,
        pages,
        at: NOW,
        by: "h\u{e4}ns".to_owned(),
    }
}

/// Pages, then the list.
pub async fn a_list_comes_back_whole_and_is_replaced(lists: &dyn Lists) {
    assert_eq!(lists.list("acme", "all").await.unwrap(), None);
    let large = "{\"payload\": {\"$a.b\": \"\u{e4}\u{0}\"}}\n".repeat(10_000);
    for (number, text) in [(0, large.as_str()), (1, "{}")] {
        for _ in 0..2 {
            lists.put_page("v1", number, text, NOW).await.unwrap();
        }
    }
    let first = list("acme", "all", "v1", 2);
    lists.put_list(&first).await.unwrap();
    assert_eq!(lists.list("acme", "all").await.unwrap(), Some(first));
    assert_eq!(lists.page("v1", 0).await.unwrap(), Some(large));
    assert_eq!(lists.page("v1", 1).await.unwrap(), Some("{}".to_owned()));
    assert_eq!(lists.page("v1", 2).await.unwrap(), None);
    assert_eq!(lists.page("v2", 0).await.unwrap(), None);

    lists.put_page("v2", 0, "{\"a\":1}", NOW).await.unwrap();
    let second = list("acme", "all", "v2", 1);
    lists.put_list(&second).await.unwrap();
    assert_eq!(lists.list("acme", "all").await.unwrap(), Some(second));
    // Whoever has begun with the one before reads on.
    assert_eq!(lists.page("v1", 1).await.unwrap(), Some("{}".to_owned()));
}

/// By code, in pages, and nothing of another's.
pub async fn lists_are_each_tenants_own(lists: &dyn Lists) {
    for (tenant, codes) in [("acme", &["b", "a", "c"][..]), ("globex", &["b"][..])] {
        for code in codes {
            let version = format!("{tenant}-{code}");
            lists.put_list(&list(tenant, code, &version, 1)).await.unwrap();
        }
    }
    let codes = async |tenant: &str, after: Option<&str>, limit: u32| {
        let found = lists.lists(tenant, after, limit).await.unwrap();
        assert!(found.iter().all(|list| list.tenant == tenant));
        found
            .into_iter()
            .map(|list| list.code)
            .collect::<Vec<_>>()
            .join(",")
    };
    assert_eq!(codes("acme", None, 10).await, "a,b,c");
    assert_eq!(codes("acme", None, 2).await, "a,b");
    assert_eq!(codes("acme", Some("b"), 2).await, "c");
    assert_eq!(codes("nobody", None, 2).await, "");
    assert!(lists.delete_list("acme", "b").await.unwrap());
    assert!(!lists.delete_list("acme", "b").await.unwrap());
    assert_eq!(codes("acme", None, 10).await, "a,c");
    assert_eq!(codes("globex", None, 10).await, "b");
}

/// In whatever order, and each once.
pub async fn lists_of_all_tenants_come_page_by_page(lists: &dyn Lists) {
    let names = [("acme", "a"), ("acme", "b"), ("acme-2", "a"), ("globex", "b")];
    for (tenant, code) in names {
        lists.put_list(&list(tenant, code, "v1", 1)).await.unwrap();
    }
    let mut found: Vec<List> = Vec::new();
    loop {
        let last = found.last().map(|list| (&*list.tenant, &*list.code));
        let page = lists.all_lists(last, 3).await.unwrap();
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 3);
        found.extend(page);
    }
    let mut found: Vec<_> = found.iter().map(|list| (&*list.tenant, &*list.code)).collect();
    found.sort_unstable();
    assert_eq!(found, names);
}

/// Those that no list leads to, and only when they are old.
pub async fn pages_of_no_list_are_swept(lists: &dyn Lists) {
    for (version, at) in [
        ("kept", NOW),
        ("broken", NOW),
        ("young", NOW + 1_000),
        ("gone", NOW),
    ] {
        for number in 0..3 {
            lists.put_page(version, number, "{}", at).await.unwrap();
        }
    }
    lists.put_list(&list("acme", "kept", "kept", 3)).await.unwrap();
    lists.put_list(&list("acme", "gone", "gone", 3)).await.unwrap();
    assert!(lists.delete_list("acme", "gone").await.unwrap());
    assert_eq!(lists.sweep_pages(NOW).await.unwrap(), 0);
    assert_eq!(lists.sweep_pages(NOW + 1).await.unwrap(), 6);
    assert_eq!(lists.sweep_pages(NOW + 1).await.unwrap(), 0);
    for (version, is_there) in [
        ("kept", true),
        ("broken", false),
        ("young", true),
        ("gone", false),
    ] {
        assert_eq!(
            lists.page(version, 2).await.unwrap().is_some(),
            is_there,
            "{version}"
        );
    }
}
