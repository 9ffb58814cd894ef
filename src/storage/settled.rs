//! Several operations at once, all of which end before a failure is returned: a write that is given up may still
//! land, over what is written next.

use futures_util::future::{join, join_all};

/// Waits for two operations.
pub async fn both<A, B, E>(
    a: impl Future<Output = Result<A, E>>,
    b: impl Future<Output = Result<B, E>>,
) -> Result<(A, B), E> {
    let (a, b) = join(a, b).await;
    Ok((a?, b?))
}

/// Waits for any number of operations.
pub async fn all<T, E>(
    operations: impl IntoIterator<Item = impl Future<Output = Result<T, E>>>,
) -> Result<Vec<T>, E> {
    join_all(operations).await.into_iter().collect()
}
