//! The awsJson1.1 surface: operations, refusals, inputs, page tokens.
//!
//! How a request names its operation and how AWS words what it refuses; what an operation answers is
//! elsewhere. Invariant: whatever a client sends, the outcome is an answer or an [`ApiError`].

use std::fmt::Write;

use serde_json::{Map, Value, json};

/// Defines the operations with the API they belong to and their wire name.
macro_rules! operations {
    ($($(#[$doc:meta])* $variant:ident = $api:ident $name:literal),+ $(,)?) => {
        /// Every operation which the endpoint answers.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Operation { $($(#[$doc])* $variant),+ }

        impl Operation {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The API it belongs to.
            pub fn api(self) -> Api {
                match self { $(Self::$variant => Api::$api),+ }
            }

            /// Its name on the wire.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

operations! {
    /// ECS ListClusters.
    ListClusters = Ecs "ListClusters",
    /// ECS DescribeClusters.
    DescribeClusters = Ecs "DescribeClusters",
    /// ECS ListServices.
    ListServices = Ecs "ListServices",
    /// ECS DescribeServices.
    DescribeServices = Ecs "DescribeServices",
    /// ECS ListTasks.
    ListTasks = Ecs "ListTasks",
    /// ECS DescribeTasks.
    DescribeTasks = Ecs "DescribeTasks",
    /// ECS DescribeTaskDefinition.
    DescribeTaskDefinition = Ecs "DescribeTaskDefinition",
    /// ECS DescribeContainerInstances.
    DescribeContainerInstances = Ecs "DescribeContainerInstances",
    /// ECS ListServicesByNamespace.
    ListServicesByNamespace = Ecs "ListServicesByNamespace",
    /// ECS DescribeServiceRevisions.
    DescribeServiceRevisions = Ecs "DescribeServiceRevisions",
    /// ECS ListServiceDeployments.
    ListServiceDeployments = Ecs "ListServiceDeployments",
    /// ECS DescribeServiceDeployments.
    DescribeServiceDeployments = Ecs "DescribeServiceDeployments",
    /// Cloud Map ListNamespaces.
    ListNamespaces = CloudMap "ListNamespaces",
    /// Cloud Map GetNamespace.
    GetNamespace = CloudMap "GetNamespace",
    /// Cloud Map ListServices.
    ListMapServices = CloudMap "ListServices",
    /// Cloud Map GetService.
    GetMapService = CloudMap "GetService",
    /// Cloud Map GetServiceAttributes.
    GetServiceAttributes = CloudMap "GetServiceAttributes",
    /// Cloud Map ListInstances.
    ListInstances = CloudMap "ListInstances",
    /// Cloud Map GetInstancesHealthStatus.
    GetInstancesHealthStatus = CloudMap "GetInstancesHealthStatus",
    /// Cloud Map DiscoverInstances.
    DiscoverInstances = CloudMap "DiscoverInstances",
    /// Cloud Map DiscoverInstancesRevision.
    DiscoverInstancesRevision = CloudMap "DiscoverInstancesRevision",
    /// EC2 DescribeInstances.
    DescribeInstances = Ec2 "DescribeInstances",
    /// STS AssumeRole.
    AssumeRole = Sts "AssumeRole",
    /// SQS ReceiveMessage.
    ReceiveMessage = Sqs "ReceiveMessage",
    /// SQS DeleteMessageBatch.
    DeleteMessageBatch = Sqs "DeleteMessageBatch",
}

impl Operation {
    /// Reads `X-Amz-Target`.
    pub(super) fn of_target(target: &str) -> Option<Self> {
        let (prefix, name) = target.split_once('.')?;
        let api = Api::ALL.iter().find(|api| api.target_prefix() == prefix)?;
        Self::ALL.iter().find(|op| op.api() == *api && op.name() == name).copied()
    }

    /// The IAM action, which also tells the two `ListServices` apart.
    pub fn action(self) -> String {
        format!("{}:{}", self.api().signing_name(), self.name())
    }
}

/// The APIs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Api {
    /// Amazon ECS.
    Ecs,
    /// AWS Cloud Map.
    CloudMap,
    /// Amazon SQS.
    Sqs,
    /// Amazon EC2, which speaks another protocol.
    Ec2,
    /// AWS STS, which speaks that one too.
    Sts,
}

impl Api {
    const ALL: &[Self] = &[Self::Ecs, Self::CloudMap, Self::Sqs, Self::Ec2, Self::Sts];

    fn target_prefix(self) -> &'static str {
        match self {
            Self::Ecs => "AmazonEC2ContainerServiceV20141113",
            Self::CloudMap => "Route53AutoNaming_v20170314",
            Self::Sqs => "AmazonSQS",
            Self::Ec2 => "AmazonEC2",
            Self::Sts => "AWSSecurityTokenService",
        }
    }

    /// What the answers of awsJson say that they are.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Ecs | Self::CloudMap => "application/x-amz-json-1.1",
            Self::Sqs => "application/x-amz-json-1.0",
            Self::Ec2 | Self::Sts => "text/xml;charset=UTF-8",
        }
    }

    fn signing_name(self) -> &'static str {
        match self {
            Self::Ecs => "ecs",
            Self::CloudMap => "servicediscovery",
            Self::Sqs => "sqs",
            Self::Ec2 => "ec2",
            Self::Sts => "sts",
        }
    }
}

/// A refusal, in AWS's words.
#[derive(Debug, Clone)]
pub(super) struct ApiError {
    pub(super) status: u16,
    pub(super) kind: &'static str,
    pub(super) message: String,
}

impl ApiError {
    pub(super) fn new(kind: &'static str, message: impl Into<String>) -> Self {
        Self { status: 400, kind, message: message.into() }
    }

    /// ECS's word for a bad argument.
    pub(super) fn parameter(message: impl Into<String>) -> Self {
        Self::new("InvalidParameterException", message)
    }

    /// Cloud Map's word for a bad argument.
    pub(super) fn input(message: impl Into<String>) -> Self {
        Self::new("InvalidInput", message)
    }

    /// The word of either API for a bad argument.
    pub(super) fn bad(api: Api, message: impl Into<String>) -> Self {
        match api {
            Api::Ecs => Self::parameter(message),
            Api::CloudMap => Self::input(message),
            Api::Sqs | Api::Ec2 | Api::Sts => Self::new("InvalidParameterValue", message),
        }
    }

    pub(super) fn throttled(api: Api) -> Self {
        match api {
            Api::Ecs => Self::new("ThrottlingException", "Rate exceeded"),
            Api::Sqs => Self::new("RequestThrottled", "Rate exceeded"),
            Api::Sts => Self::new("Throttling", "Rate exceeded"),
            Api::CloudMap => Self::new("RequestLimitExceeded", "Rate exceeded"),
            Api::Ec2 => Self { status: 503, ..Self::new("RequestLimitExceeded", "Request limit exceeded.") },
        }
    }

    pub(super) fn server(api: Api) -> Self {
        let kind = match api {
            Api::Ecs => "ServerException",
            Api::CloudMap | Api::Sqs | Api::Sts => "InternalFailure",
            Api::Ec2 => "InternalError",
        };
        Self { status: 500, kind, message: "Service Unavailable. Please try again later.".to_owned() }
    }

    pub(super) fn denied(operation: Operation, account: &str) -> Self {
        let action = operation.action();
        let who = format!("arn:aws:sts::{account}:assumed-role/legation/session");
        let message = format!(
            "User: {who} is not authorized to perform: {action} because no identity-based policy allows the {action} action"
        );
        match operation.api() {
            Api::Ec2 => Self { status: 403, ..Self::new("UnauthorizedOperation", message) },
            Api::Sts => Self { status: 403, ..Self::new("AccessDenied", message) },
            _ => Self::new("AccessDeniedException", message),
        }
    }

    /// The body; Cloud Map's model spells the member with a capital.
    pub(super) fn body(&self, api: Option<Api>) -> Value {
        match api {
            Some(Api::CloudMap) => json!({ "__type": self.kind, "Message": self.message }),
            _ => json!({ "__type": self.kind, "message": self.message }),
        }
    }
}

/// A request's members, read with their types.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    members: &'a Map<String, Value>,
    api: Api,
}

impl<'a> Input<'a> {
    pub(super) fn new(value: &'a Value, api: Api) -> Result<Self, ApiError> {
        match value {
            Value::Object(members) => Ok(Self { members, api }),
            _ => Err(ApiError::new("SerializationException", "the request is not a structure")),
        }
    }

    fn member(&self, key: &str) -> Option<&'a Value> {
        self.members.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.member(key).is_some()
    }

    pub(super) fn string(&self, key: &str) -> Result<Option<&'a str>, ApiError> {
        match self.member(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong_type(key, "a string")),
        }
    }

    pub(super) fn required(&self, key: &str) -> Result<&'a str, ApiError> {
        self.string(key)?.ok_or_else(|| ApiError::bad(self.api, format!("{key} is required.")))
    }

    pub(super) fn strings(&self, key: &str) -> Result<Vec<&'a str>, ApiError> {
        let Some(value) = self.member(key) else { return Ok(Vec::new()) };
        let items = value.as_array().ok_or_else(|| wrong_type(key, "a list"))?;
        items.iter().map(|item| item.as_str().ok_or_else(|| wrong_type(key, "a list of strings"))).collect()
    }

    pub(super) fn structures(&self, key: &str) -> Result<Vec<Input<'a>>, ApiError> {
        let Some(value) = self.member(key) else { return Ok(Vec::new()) };
        let items = value.as_array().ok_or_else(|| wrong_type(key, "a list"))?;
        items.iter().map(|item| Input::new(item, self.api)).collect()
    }

    pub(super) fn map(&self, key: &str) -> Result<Vec<(&'a str, &'a str)>, ApiError> {
        let Some(value) = self.member(key) else { return Ok(Vec::new()) };
        let items = value.as_object().ok_or_else(|| wrong_type(key, "a map"))?;
        let pair = |(key, value): (&'a String, &'a Value)| Some((key.as_str(), value.as_str()?));
        items.iter().map(|item| pair(item).ok_or_else(|| wrong_type(key, "a map of strings"))).collect()
    }

    /// A count between 1 and `most`.
    pub(super) fn count(&self, key: &str, default: usize, most: usize) -> Result<usize, ApiError> {
        let Some(value) = self.member(key) else { return Ok(default) };
        let number = value.as_i64().ok_or_else(|| wrong_type(key, "an integer"))?;
        let number = usize::try_from(number).ok().filter(|number| (1..=most).contains(number));
        number.ok_or_else(|| ApiError::bad(self.api, format!("{key} must be between 1 and {most}.")))
    }
}

fn wrong_type(key: &str, wanted: &str) -> ApiError {
    ApiError::new("SerializationException", format!("{key} must be {wanted}"))
}

/// Where a page of a list begins. A token names the list it belongs to and the last key shown, so that
/// pages stay complete while the list changes underneath.
pub(super) struct Pager {
    scope: String,
    after: Option<String>,
    size: usize,
    api: Api,
}

impl Pager {
    /// Reads the token of a request. `scope` holds the filters: a token is good for one list only.
    pub(super) fn new(operation: Operation, scope: &[&str], input: Input<'_>) -> Result<Self, ApiError> {
        let (token, count, default) = match operation {
            Operation::ListServices | Operation::ListServicesByNamespace => ("nextToken", "maxResults", 10),
            other if other.api() == Api::Ecs => ("nextToken", "maxResults", 100),
            _ => ("NextToken", "MaxResults", 100),
        };
        let api = operation.api();
        let scope = format!("{}\n{}", operation.action(), scope.join("\n"));
        let size = input.count(count, default, 100)?;
        let after = match input.string(token)? {
            None => None,
            Some(token) => {
                let opened = open_token(token, &scope);
                Some(opened.ok_or_else(|| ApiError::bad(api, "Invalid token."))?)
            }
        };
        Ok(Self { scope, after, size, api })
    }

    /// The last key of the page before.
    pub(super) fn after(&self) -> Option<&str> {
        self.after.as_deref()
    }

    /// One page of items that are in order of key, and the answer to put it in. Items up to the last
    /// page's key are skipped.
    pub(super) fn page<T>(
        self,
        items: impl Iterator<Item = (String, T)>,
    ) -> (Vec<(String, T)>, Map<String, Value>) {
        let after = self.after.as_deref();
        let mut page: Vec<_> = items
            .skip_while(|(key, _)| after.is_some_and(|after| key.as_str() <= after))
            .take(self.size + 1)
            .collect();
        let mut answer = Map::new();
        if page.len() > self.size {
            page.truncate(self.size);
            if let Some((last, _)) = page.last() {
                let member = if self.api == Api::Ecs { "nextToken" } else { "NextToken" };
                answer.insert(member.to_owned(), Value::String(seal_token(&self.scope, last)));
            }
        }
        (page, answer)
    }
}

/// Whether a request asks for a page after the first.
pub(super) fn asks_for_later_page(input: &Value) -> bool {
    ["nextToken", "NextToken"].iter().any(|key| input.get(key).is_some_and(Value::is_string))
}

fn seal_token(scope: &str, after: &str) -> String {
    let mut token = format!("{:016x}", checksum(&[scope, after]));
    for byte in after.bytes() {
        // Writing to a string does not fail.
        let _ = write!(token, "{:02x}", byte ^ 0x5a);
    }
    token
}

fn open_token(token: &str, scope: &str) -> Option<String> {
    let (sum, rest) = token.split_at_checked(16)?;
    let digits = rest.as_bytes().chunks(2);
    let bytes = digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    let after = String::from_utf8(bytes.map(|byte| Some(byte? ^ 0x5a)).collect::<Option<Vec<u8>>>()?).ok()?;
    (sum == format!("{:016x}", checksum(&[scope, &after]))).then_some(after)
}

/// FNV-1a: tokens only have to be recognised, not to be secret.
fn checksum(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
