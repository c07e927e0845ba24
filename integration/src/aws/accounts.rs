//! Several accounts and Regions behind one endpoint, and the roles that lead into them: STS AssumeRole.
//!
//! Who calls is read off the signature, which nobody checks: its access key tells the account, its scope the Region. Every
//! role of an account that there is may be taken on, until all are refused. Invariant: whoever calls with a role's
//! credentials sees that role's account, and nobody else does.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use hyper::header::{AUTHORIZATION, HeaderMap};

use super::machines::form;
use super::wire::{ApiError, Operation};
use crate::world::World;

/// How access keys begin that a role lends; the number of its account follows.
const LENT: &str = "ASIA";
const XMLNS: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

/// A handle on the accounts; clones share them.
#[derive(Debug, Clone)]
pub struct Accounts(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// The one that calls without a role reach.
    home: World,
    others: Mutex<Vec<World>>,
    refused: AtomicBool,
    /// Roles taken on so far.
    lent: AtomicU64,
    lifetime: Mutex<Duration>,
}

/// What a signature says of who calls whom.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    key: String,
    region: String,
    service: String,
}

impl Scope {
    /// From `AWS4-HMAC-SHA256 Credential=<key>/<date>/<Region>/<service>/aws4_request, …`.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let signature = headers.get(AUTHORIZATION)?.to_str().ok()?;
        let credential = signature.split_once("Credential=")?.1.split(',').next()?;
        let mut parts = credential.split('/');
        let (key, _date) = (parts.next()?.to_owned(), parts.next()?);
        let (region, service) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        Some(Self { key, region, service })
    }

    /// The Region that the request is signed for.
    pub(super) fn region(&self) -> &str {
        &self.region
    }

    /// Whether STS is called.
    pub(super) fn is_sts(&self) -> bool {
        self.service == "sts"
    }
}

fn place(world: &World) -> (String, String) {
    world.read(|state| (state.account.clone(), state.region.clone()))
}

impl Accounts {
    pub(super) fn new(home: World) -> Self {
        Self(Arc::new(Shared {
            home,
            others: Mutex::default(),
            refused: AtomicBool::new(false),
            lent: AtomicU64::new(0),
            lifetime: Mutex::new(Duration::from_secs(3600)),
        }))
    }

    pub(super) fn add(&self, world: World) {
        self.others().push(world);
    }

    /// Refuses every role from now on, or none any more.
    pub fn refuse(&self, refused: bool) {
        self.0.refused.store(refused, Ordering::Relaxed);
    }

    /// How long credentials last from now on. Those for less than a quarter of a minute are taken for over at once.
    pub fn lend_for(&self, lifetime: Duration) {
        *self.0.lifetime.lock().unwrap_or_else(PoisonError::into_inner) = lifetime;
    }

    /// How often a role was taken on.
    pub fn lent(&self) -> u64 {
        self.0.lent.load(Ordering::Relaxed)
    }

    fn others(&self) -> MutexGuard<'_, Vec<World>> {
        self.0.others.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The account and Region that a signature is about. Where there is but one, its Region is not looked at.
    pub(super) fn world(&self, scope: Option<&Scope>) -> Option<World> {
        let (others, (home, _)) = (self.others(), place(&self.0.home));
        let account = scope.and_then(|scope| scope.key.strip_prefix(LENT));
        let Some(scope) = scope.filter(|_| !(others.is_empty() && account.is_none_or(|it| it == home)))
        else {
            return Some(self.0.home.clone());
        };
        let wanted = (account.unwrap_or(&home).to_owned(), scope.region.clone());
        let mut all = std::iter::once(&self.0.home).chain(others.iter());
        all.find(|world| place(world) == wanted).cloned()
    }

    /// Answers STS.
    pub(super) fn assume(&self, body: &[u8]) -> Result<String, ApiError> {
        let form = form(&String::from_utf8_lossy(body));
        let member = |name: &str| form[name].as_str().map(str::to_owned);
        if member("Action").as_deref() != Some("AssumeRole") {
            return Err(ApiError::new("InvalidAction", "The action is not known here."));
        }
        let role = member("RoleArn").unwrap_or_default();
        let account = role.split(':').nth(4).unwrap_or_default();
        let is_there =
            std::iter::once(&self.0.home).chain(self.others().iter()).any(|it| place(it).0 == account);
        if self.0.refused.load(Ordering::Relaxed) || !is_there {
            return Err(ApiError::denied(Operation::AssumeRole, &place(&self.0.home).0));
        }
        self.0.lent.fetch_add(1, Ordering::Relaxed);
        let session = member("RoleSessionName").unwrap_or_default();
        let name = role.rsplit('/').next().unwrap_or_default();
        let lifetime = *self.0.lifetime.lock().unwrap_or_else(PoisonError::into_inner);
        let until = jiff::Timestamp::try_from(SystemTime::now() + lifetime).unwrap_or_default();
        let answer = format!(
            "<AssumeRoleResponse xmlns=\"{XMLNS}\"><AssumeRoleResult><AssumedRoleUser>\
             <AssumedRoleId>AROAEXAMPLE:{session}</AssumedRoleId>\
             <Arn>arn:aws:sts::{account}:assumed-role/{name}/{session}</Arn></AssumedRoleUser><Credentials>\
             <AccessKeyId>{LENT}{account}</AccessKeyId><SecretAccessKey>example</SecretAccessKey>\
             <SessionToken>example</SessionToken><Expiration>{until}</Expiration></Credentials></AssumeRoleResult>\
             <ResponseMetadata><RequestId>00000000-0000-4000-8000-000000000000</RequestId></ResponseMetadata>\
             </AssumeRoleResponse>"
        );
        Ok(answer)
    }
}

/// A refusal as STS words it.
pub(super) fn refusal(error: &ApiError) -> String {
    let ApiError { kind, message, .. } = error;
    format!(
        "<ErrorResponse xmlns=\"{XMLNS}\"><Error><Type>Sender</Type><Code>{kind}</Code><Message>{message}</Message>\
         </Error><RequestId>00000000-0000-4000-8000-000000000000</RequestId></ErrorResponse>"
    )
}
