//! Pulls that stay near: what is cached at a data centre, how long, and what never comes from there.

use futures_executor::block_on;
use pierhead::{
    oci::{Algorithm, Reference, RepositoryName},
    platform::{EdgeCache, memory::MemoryStream},
    repository::facts::{Question, tag_of},
};

use crate::{
    center::{At, BOUND, MANIFEST, Place, START, by_digest, elsewhere, get_layer, other_manifest},
    reads::{LAYER, layer},
    support::{Hook, TestRegistry},
};

#[test]
fn a_warm_pull_makes_no_storage_call() {
    let place = Place::new(BOUND);
    let lines = ["GET /v2/a/manifests/v1", "HEAD /v2/a/manifests/v1", &by_digest(), &get_layer()];
    for line in lines {
        assert_eq!(place.cost(&place.first, line).2.status, 200);
    }
    // Another isolate: a question about the repository, and one for the content.
    for (line, questions) in lines.iter().zip([2, 0, 1, 2]) {
        let (calls, asked, answer) = place.cost(&place.second, line);
        assert_eq!((calls, asked.len(), answer.status.as_u16()), (0, questions, 200), "{line}");
    }
    // The same isolate again: the bytes of the blob only.
    for (line, questions) in lines.iter().zip([0, 0, 0, 1]) {
        let (calls, asked, answer) = place.cost(&place.second, line);
        assert_eq!((calls, asked.len()), (0, questions), "{line}");
        if !line.starts_with("HEAD") {
            let expected = if line.contains("blobs") { LAYER } else { MANIFEST.as_bytes() };
            assert_eq!(answer.body, expected);
        }
    }
    // A range comes from the whole.
    let headers = [("host", "registry.example"), ("range", "bytes=4-8")];
    let (calls, answer) = place.second.calls(&get_layer(), &headers);
    assert_eq!((calls.len(), answer.status.as_u16(), answer.body.as_slice()), (0, 206, &b"bytes"[..]));
    assert_eq!(place.second.later.0.borrow().len(), 0, "nothing is read twice");
}

#[test]
fn strict_tags_cost_one_call_and_nothing_else_does() {
    let place = Place::new(&[("DIGEST_CACHE_SECONDS", "60")]);
    let lines = ["GET /v2/a/manifests/v1", &by_digest(), &get_layer()];
    for line in lines {
        place.cost(&place.first, line);
    }
    for (line, expected) in lines.iter().zip([1, 0, 0]) {
        assert_eq!(place.cost(&place.second, line).0, expected, "{line}");
    }
}

#[test]
fn by_default_no_fact_is_cached() {
    let place = Place::new(&[]);
    for line in ["GET /v2/a/manifests/v1", &by_digest(), &get_layer()] {
        place.cost(&place.first, line);
        for _ in 0..2 {
            let (calls, asked, answer) = place.cost(&place.first, line);
            assert_eq!((calls, answer.status.as_u16()), (1, 200), "{line}");
            assert!(asked.iter().all(|path| !path.starts_with("/facts/")), "{asked:?}");
        }
    }
    assert_eq!(place.center.facts(), [""; 0]);
    assert_eq!(place.first.get("DELETE /v2/a/manifests/v1").status, 202);
    assert!(place.first.later.1.borrow().is_empty(), "there is nothing to purge");
}

#[test]
fn no_answer_is_older_than_its_bound_if_the_purge_is_lost() {
    for forgets_age in [false, true] {
        let place = Place::new(BOUND);
        place.center.forgets_age.set(forgets_age);
        let lines = ["GET /v2/a/manifests/v1", &by_digest(), &get_layer()];
        let statuses =
            |registry: &TestRegistry| lines.map(|line| place.cost(registry, line).2.status.as_u16());
        assert_eq!(statuses(&place.first), [200; 3]);
        elsewhere(&place.persistent, &by_digest().replace("GET", "DELETE"), None);
        elsewhere(&place.persistent, &get_layer().replace("GET", "DELETE"), None);
        place.at(59);
        // From the memory of one isolate, and from the cache for the other.
        assert_eq!((statuses(&place.first), statuses(&place.second)), ([200; 3], [200; 3]));
        place.at(60);
        assert_eq!((statuses(&place.first), statuses(&place.second)), ([404; 3], [404; 3]));
    }
}

#[test]
fn a_fill_under_way_during_a_purge_is_not_kept_past_the_bound() {
    for forgets_age in [false, true] {
        let place = Place::new(BOUND);
        place.center.forgets_age.set(forgets_age);
        let name: RepositoryName = "a".parse().unwrap();
        let path = Question::Manifest(Reference::Tag("v1".parse().unwrap())).path(&name);
        let fill = block_on(place.center.run(&path)).unwrap();
        place.at(30);
        elsewhere(&place.persistent, "PUT /v2/a/manifests/v1", Some(&other_manifest()));
        block_on(At(place.center.clone()).purge(&[tag_of(&name)])).unwrap();
        // The slow answer arrives after the purge. The platform counts its age from now on.
        place.at(59);
        place.center.keep(&path, fill);
        let tag = |registry| place.cost(registry, "GET /v2/a/manifests/v1").2.body;
        assert_eq!(tag(&place.first), MANIFEST.as_bytes());
        place.at(60);
        assert_eq!(tag(&place.first), other_manifest().as_bytes());
        assert_eq!(tag(&place.second), other_manifest().as_bytes());
    }
}

#[test]
fn the_age_of_an_answer_counts_from_the_start_of_its_read() {
    let place = Place::new(BOUND);
    let name: RepositoryName = "a".parse().unwrap();
    let path = Question::Blob(layer()).path(&name);
    for (delay, expected) in [(0, Some(60)), (20, Some(40)), (59, Some(1)), (60, None), (90, None)] {
        place.at(0);
        let clock = place.center.isolate.clock.clone();
        let slow: Hook = Box::new(move || clock.0.set((START + delay) * 1000));
        place.persistent.storage.on_call.replace(Some(slow));
        assert_eq!(block_on(place.center.run(&path)).and_then(|entry| entry.max_age), expected, "{delay}");
    }
    place.persistent.storage.on_call.replace(None);

    // In memory, too: a read that took 50 seconds is good for 10.
    place.at(0);
    let clock = place.first.clock.clone();
    place.first.near.replace(None);
    let slow: Hook = Box::new(move || clock.0.set((START + 50) * 1000));
    place.persistent.storage.on_call.replace(Some(slow));
    assert_eq!(place.first.get("GET /v2/a/manifests/v1").status, 200);
    place.persistent.storage.on_call.replace(None);
    elsewhere(&place.persistent, "DELETE /v2/a/manifests/v1", None);
    for (seconds, status) in [(59, 200), (60, 404)] {
        place.at(seconds);
        assert_eq!(place.first.get("GET /v2/a/manifests/v1").status, status);
    }
}

#[test]
fn absence_is_never_cached() {
    let place = Place::new(BOUND);
    let other = Algorithm::Sha256.digest(other_manifest().as_bytes());
    let lines = ["GET /v2/a/manifests/v2".to_owned(), format!("GET /v2/a/manifests/{other}")];
    for line in &lines {
        for registry in [&place.first, &place.second] {
            assert_eq!(place.cost(registry, line).2.status, 404);
        }
    }
    assert_eq!(place.center.facts(), [""; 0]);
    elsewhere(&place.persistent, "PUT /v2/a/manifests/v2", Some(&other_manifest()));
    for line in &lines {
        for registry in [&place.first, &place.second] {
            assert_eq!(place.cost(registry, line).2.status, 200);
        }
    }
}

#[test]
fn checks_read_the_store() {
    let place = Place::new(BOUND);
    let blob = get_layer();
    for line in ["GET /v2/a/manifests/v1", &by_digest(), &blob] {
        assert_eq!(place.cost(&place.first, line).2.status, 200);
    }
    let check = |line: &str, headers: &[(&str, &str)], body: Option<String>, status: u16| {
        place.center.asked.borrow_mut().clear();
        let answer = place.first.send(line, headers, body.map(MemoryStream::new));
        assert_eq!(answer.status.as_u16(), status, "{line}");
        assert_eq!(*place.center.asked.borrow(), [""; 0], "{line}");
    };
    let config = format!(r#"{{"mediaType":"x/y","digest":"{}","size":20}}"#, layer());
    let referring = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{config},"layers":[]}}"#
    );
    let mount = format!("POST /v2/b/blobs/uploads/?mount={}&from=a", layer());
    for is_there in [true, false] {
        if !is_there {
            place.at(1);
            assert_eq!(place.cost(&place.first, &blob).2.status, 200);
            elsewhere(&place.persistent, &blob.replace("GET", "DELETE"), None);
            elsewhere(&place.persistent, &by_digest().replace("GET", "DELETE"), None);
        }
        let found = if is_there { 200 } else { 404 };
        check(&blob.replace("GET", "HEAD"), &[], None, found);
        check(&by_digest().replace("GET", "HEAD"), &[], None, found);
        check(&mount, &[], None, if is_there { 201 } else { 202 });
        check("PUT /v2/a/manifests/v2", &[], Some(referring.clone()), if is_there { 201 } else { 400 });
        if !is_there {
            for line in [&by_digest(), &blob, "GET /v2/a/manifests/v1"] {
                check(line, &[("cache-control", "no-cache")], None, 404);
            }
            assert_eq!(place.cost(&place.first, &blob).2.status, 200, "within the bound");
        }
    }
}

#[test]
fn bytes_are_served_only_with_a_current_fact() {
    let place = Place::new(BOUND);
    assert_eq!(place.cost(&place.first, &get_layer()).2.body, LAYER);
    assert!(place.center.entries.borrow().contains_key(&format!("/blobs/{}", layer())));
    for registry in [&place.first, &place.second] {
        assert_eq!(place.cost(registry, &get_layer().replace("/a/", "/b/")).2.status, 404);
        assert_eq!(place.cost(registry, &by_digest().replace("/a/", "/b/")).2.status, 404);
    }
    elsewhere(&place.persistent, &get_layer().replace("GET", "DELETE"), None);
    place.at(60);
    assert_eq!(place.cost(&place.first, &get_layer()).2.status, 404);
}

#[test]
fn an_isolate_sees_its_own_changes_at_once() {
    let place = Place::new(BOUND);
    for line in ["GET /v2/a/manifests/v1", &get_layer()] {
        assert_eq!(place.cost(&place.first, line).2.status, 200);
    }
    place.at(1);
    let body = Some(MemoryStream::new(other_manifest()));
    assert_eq!(place.first.send("PUT /v2/a/manifests/v1", &[], body).status, 201);
    assert_eq!(place.first.get(&get_layer().replace("GET", "DELETE")).status, 202);
    // The purge has not run: the cache still has the old answers.
    assert_eq!(place.center.facts().len(), 2);
    for seconds in [1, 2] {
        place.at(seconds);
        assert_eq!(place.cost(&place.first, "GET /v2/a/manifests/v1").2.body, other_manifest().as_bytes());
        assert_eq!(place.cost(&place.first, &get_layer()).2.status, 404);
        assert_eq!(place.cost(&place.second, "GET /v2/a/manifests/v1").2.body, MANIFEST.as_bytes());
    }
    assert_eq!(place.center.facts().len(), 2);
    run_purges(&place.first);
    assert_eq!(place.center.facts(), [""; 0]);
}

/// Runs the purges that are scheduled now; returns their delays.
fn run_purges(registry: &TestRegistry) -> Vec<u32> {
    let work = registry.later.1.take();
    work.into_iter()
        .map(|(delay, work)| {
            let now = registry.clock.0.get();
            registry.clock.0.set(now + u64::from(delay));
            block_on(work);
            delay
        })
        .collect()
}

#[test]
fn purges_are_coalesced() {
    let place = Place::new(BOUND);
    let push = |name: &str| {
        let body = Some(MemoryStream::new(MANIFEST));
        assert_eq!(place.first.send(&format!("PUT /v2/{name}/manifests/v1"), &[], body).status, 201);
    };
    let purged = || place.center.purged.take().iter().map(Vec::len).collect::<Vec<_>>();
    // The first at once, those that follow together.
    push("a");
    assert_eq!((run_purges(&place.first), purged()), (vec![0], vec![1]));
    for name in ["a", "b", "a", "c"] {
        push(name);
    }
    assert_eq!((run_purges(&place.first), purged()), (vec![5_000], vec![3]));
    // At most 100 tags at once.
    (0..150).for_each(|n| push(&format!("r{n}")));
    assert_eq!((run_purges(&place.first), purged()), (vec![5_000], vec![100]));
    assert_eq!((run_purges(&place.first), purged()), (vec![5_000], vec![50]));
    // A refused purge is repeated after a pause, until all answers have expired anyway.
    place.center.refuses_purges.set(true);
    push("a");
    assert_eq!((run_purges(&place.first), purged()), (vec![5_000], vec![1]));
    assert_eq!((run_purges(&place.first), purged()), (vec![15_000], vec![1]));
    place.first.clock.0.set(place.first.clock.0.get() + 60_000);
    assert_eq!((run_purges(&place.first), purged()), (vec![15_000], vec![]));
    assert!(place.first.later.1.borrow().is_empty());
    // A purge that the platform dropped does not stop later ones.
    place.center.refuses_purges.set(false);
    push("a");
    place.first.later.1.take();
    push("b");
    assert!(place.first.later.1.borrow().is_empty());
    place.first.clock.0.set(place.first.clock.0.get() + 36_000);
    push("c");
    assert_eq!((run_purges(&place.first).len(), purged()), (1, vec![3]));
}

#[test]
fn only_changes_that_a_cache_can_hide_are_purged() {
    let scheduled = |vars: &[(&str, &str)], lines: &[String]| {
        let place = Place::new(vars);
        for line in lines {
            let body = line.starts_with("PUT").then(|| MemoryStream::new(MANIFEST));
            assert!(place.first.send(line, &[], body).status.is_success(), "{line}");
        }
        place.first.later.1.borrow().len()
    };
    let tag = ["PUT /v2/a/manifests/v2".to_owned(), "DELETE /v2/a/manifests/v2".to_owned()];
    let new = [by_digest().replace("GET", "PUT")];
    let deleted = [get_layer().replace("GET", "DELETE"), by_digest().replace("GET", "DELETE")];
    for (vars, expected) in [
        (&[("TAG_CACHE_SECONDS", "60")][..], [1, 0, 1]),
        (&[("DIGEST_CACHE_SECONDS", "60")], [0, 0, 1]),
        (&[], [0, 0, 0]),
    ] {
        let found = [&tag[..], &new, &deleted].map(|lines| scheduled(vars, lines));
        assert_eq!(found, expected, "{vars:?}");
    }
}

#[test]
fn inner_entry_points_answer_nothing_else() {
    let place = Place::new(BOUND);
    for path in ["/", "/v2/", "/v2/a/tags/list", "/facts/", "/facts/blobs/x/a", "/manifests/v1", "/blobs/"] {
        assert!(block_on(place.center.run(path)).is_none(), "{path}");
    }
}
