//! `oci-client` against the running registry at `PIERHEAD` (`host:port`). `npm test` starts one; without it
//! the test is skipped.
#![cfg(not(target_arch = "wasm32"))]

use std::collections::BTreeMap;

use oci_client::{
    Client, Reference,
    client::{ClientConfig, ClientProtocol, Config, ImageLayer},
    manifest::{IMAGE_CONFIG_MEDIA_TYPE, IMAGE_LAYER_MEDIA_TYPE, OciImageManifest},
    secrets::RegistryAuth,
};

/// Incompressible bytes. The largest layer has more than two parts.
fn layer(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32 ^ size as u32;
    (0..size)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

#[tokio::test(flavor = "current_thread")]
async fn oci_client_pushes_and_pulls() {
    let Ok(host) = std::env::var("PIERHEAD") else {
        println!("SKIPPED: PIERHEAD is not set");
        return;
    };
    // The client requires a TLS provider even for plain HTTP; this is the smallest one to build.
    rustls::crypto::ring::default_provider().install_default().unwrap();
    for (use_chunks, name) in [(true, "chunks"), (false, "whole")] {
        let client = Client::new(ClientConfig {
            protocol: ClientProtocol::Http,
            use_monolithic_push: !use_chunks,
            ..ClientConfig::default()
        });
        let reference: Reference = format!("{host}/oci-client/{name}:v1").parse().expect("a reference");
        let layers: Vec<ImageLayer> = [10, 1_000_000, 17_000_000]
            .into_iter()
            .map(|size| ImageLayer::new(layer(size), IMAGE_LAYER_MEDIA_TYPE.to_owned(), None))
            .collect();
        let config = Config::new(b"{}".to_vec(), IMAGE_CONFIG_MEDIA_TYPE.to_owned(), None);
        let annotations = BTreeMap::from([("org.example.name".to_owned(), name.to_owned())]);
        let manifest = OciImageManifest::build(&layers, &config, Some(annotations));
        let auth = RegistryAuth::Anonymous;
        client.push(&reference, &layers, config, &auth, Some(manifest)).await.unwrap();

        let mut pulled = client.pull(&reference, &auth, vec![IMAGE_LAYER_MEDIA_TYPE]).await.unwrap();
        assert_eq!(pulled.layers.len(), layers.len());
        // Layers come in the order of their arrival.
        pulled.layers.sort_by_key(|layer| layer.data.len());
        for (pulled, pushed) in pulled.layers.iter().zip(&layers) {
            assert!(pulled.data == pushed.data, "a layer of {} bytes was changed", pushed.data.len());
        }
        let digest = client.fetch_manifest_digest(&reference, &auth).await.unwrap();
        assert_eq!(pulled.digest, Some(digest.clone()));
        let by_digest: Reference = format!("{host}/oci-client/{name}@{digest}").parse().unwrap();
        client.pull_manifest(&by_digest, &auth).await.unwrap();
        let tags = client.list_tags(&reference, &auth, None, None).await.unwrap();
        assert_eq!(tags.tags, ["v1"]);
    }
}
