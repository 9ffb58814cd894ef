//! The driver suite on the platform's own bindings, which `tests/bindings.mjs` puts into the global scope.
