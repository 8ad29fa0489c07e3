//! Retries as the service config says. The other languages' gRPC libraries read that file themselves;
//! tonic does not.

use std::str::FromStr;
use std::time::Duration;

use serde_json::Value;
use tonic::{Code, Response, Status};

/// The `retryPolicy` of a service config.
pub struct Policy {
    max_attempts: u64,
    initial_backoff: Duration,
    max_backoff: Duration,
    multiplier: f64,
    codes: Vec<String>,
}

impl Policy {
    /// Reads the first `retryPolicy` of a service config.
    ///
    /// # Errors
    /// What the text lacks, in a sentence.
    pub fn read(text: &str) -> Result<Self, String> {
        let config = Value::from_str(text).map_err(|error| error.to_string())?;
        let policy = &config["methodConfig"][0]["retryPolicy"];
        let lacking = |key: &str| format!("the service config's retryPolicy has no {key}");
        let seconds = |key: &str| {
            let written = policy[key].as_str().and_then(|text| text.strip_suffix('s'));
            let number = written.and_then(|text| text.parse().ok());
            number
                .map(Duration::from_secs_f64)
                .ok_or_else(|| lacking(key))
        };
        let codes = policy["retryableStatusCodes"].as_array();
        let codes = codes.ok_or_else(|| lacking("retryableStatusCodes"))?;
        Ok(Self {
            max_attempts: policy["maxAttempts"]
                .as_u64()
                .ok_or_else(|| lacking("maxAttempts"))?,
            initial_backoff: seconds("initialBackoff")?,
            max_backoff: seconds("maxBackoff")?,
            multiplier: policy["backoffMultiplier"]
                .as_f64()
                .ok_or_else(|| lacking("backoffMultiplier"))?,
            codes: codes
                .iter()
                .filter_map(|code| code.as_str().map(str::to_owned))
                .collect(),
        })
    }

    /// Makes a call until it succeeds, fails for good, or has been tried often enough.
    ///
    /// # Errors
    /// The status of the last attempt.
    pub async fn run<A, F: Future<Output = Result<Response<A>, Status>>>(
        &self,
        mut call: impl FnMut() -> F,
    ) -> Result<A, Status> {
        let mut backoff = self.initial_backoff;
        for _ in 1..self.max_attempts {
            match call().await {
                Err(status) if self.codes.contains(&code_name(status.code())) => {
                    tokio::time::sleep(backoff).await;
                    backoff = backoff.mul_f64(self.multiplier).min(self.max_backoff);
                }
                settled => return settled.map(Response::into_inner),
            }
        }
        call().await.map(Response::into_inner)
    }
}

/// Writes a code as gRPC does: `NotFound` is `NOT_FOUND`.
pub fn code_name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}
