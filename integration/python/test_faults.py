"""Holds the faults of the AWS-like endpoint to what boto3 makes of them.

It does not judge what Legation makes of them.
"""

from shapes import FAKE, faulty, refused, task_arns

CLUSTER, NAMESPACE = FAKE["cluster"], FAKE["namespace"]


def test_throttling():
    response = refused("ThrottlingException", faulty("throttle").list_clusters)
    assert response["Error"]["Message"] == "Rate exceeded"
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 400
    refused("RequestLimitExceeded", faulty("throttle", "servicediscovery").list_namespaces)


def test_denial_names_the_action():
    response = refused("AccessDeniedException", faulty("access-denied").list_tasks, cluster=CLUSTER)
    assert "ecs:ListTasks" in response["Error"]["Message"]
    response = refused("AccessDeniedException", faulty("access-denied", "servicediscovery").list_namespaces)
    assert "servicediscovery:ListNamespaces" in response["Error"]["Message"]


def test_server_errors():
    response = refused("ServerException", faulty("server-error").list_clusters)
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 500


def test_half_pages_fail_after_the_first():
    ecs = faulty("half-pages")
    first = ecs.list_tasks(cluster="spare")
    assert len(first["taskArns"]) == 100
    refused("ThrottlingException", ecs.list_tasks, cluster="spare", nextToken=first["nextToken"])


def test_garbage_cannot_be_parsed():
    # botocore lets it pass as an answer without members; other SDKs refuse it.
    answer = faulty("garbage").list_clusters()
    assert answer.keys() == {"ResponseMetadata"} and answer["ResponseMetadata"]["HTTPStatusCode"] == 200


def test_empty_answers_are_clean():
    assert faulty("empty").list_tasks(cluster="spare")["taskArns"] == []
    answer = faulty("empty").describe_services(cluster=CLUSTER, services=["payments"])
    assert (answer["services"], answer["failures"]) == ([], [])


def test_failures_stand_for_what_is_there():
    ecs = faulty("missing")
    arns = task_arns(ecs, cluster=CLUSTER)
    answer = ecs.describe_tasks(cluster=CLUSTER, tasks=arns)
    assert answer["failures"] and {f["reason"] for f in answer["failures"]} == {"MISSING"}
    shown = [t["taskArn"] for t in answer["tasks"]] + [f["arn"] for f in answer["failures"]]
    assert sorted(shown) == sorted(arns)


def test_a_shuffled_list_is_complete():
    ecs = faulty("shuffled")
    first, second = (
        [a for p in ecs.pages("list_tasks", cluster="spare", PaginationConfig={"PageSize": 7}) for a in p["taskArns"]]
        for _ in range(2)
    )
    assert first != second and sorted(first) == sorted(second) and len(set(first)) == 120
    names = [n["Name"] for p in faulty("shuffled", "servicediscovery").pages("list_namespaces") for n in p["Namespaces"]]
    assert sorted(names) == ["common", "legacy.internal", NAMESPACE]
