#!/usr/bin/env python3
"""Cuts Stripe's OpenAPI document down to the operations and schemas that the sandbox's contract
test needs.

    tests/stripe/trim.py path/to/spec3.json > tests/stripe/openapi.json

Descriptions and extensions go. A field whose schema is not kept goes as well, or becomes `null`
only where Stripe says it may be null: a reply that fills it then fails the test instead of passing
unchecked. In an expandable field the object is dropped and the id remains.
"""

import json
import sys

PATHS = [
    "/v1/balance",
    "/v1/balance_transactions",
    "/v1/balance_transactions/{id}",
    "/v1/charges",
    "/v1/charges/{charge}",
    "/v1/disputes",
    "/v1/disputes/{dispute}",
    "/v1/events",
    "/v1/events/{id}",
    "/v1/payment_intents",
    "/v1/payment_intents/{intent}",
    "/v1/payment_intents/{intent}/cancel",
    "/v1/payment_intents/{intent}/capture",
    "/v1/payment_intents/{intent}/confirm",
    "/v1/payment_methods",
    "/v1/payment_methods/{payment_method}",
    "/v1/refunds",
    "/v1/refunds/{refund}",
]

# Top-level operations the sandbox does not have on these paths.
DROPPED = {
    ("/v1/charges", "post"),
    ("/v1/charges/{charge}", "post"),
    ("/v1/disputes/{dispute}", "post"),
    ("/v1/payment_methods", "get"),
    ("/v1/payment_methods/{payment_method}", "post"),
    ("/v1/refunds/{refund}", "post"),
}

SCHEMAS = {
    "address",
    "api_errors",
    "balance",
    "balance_amount",
    "balance_amount_by_source_type",
    "balance_transaction",
    "billing_details",
    "charge",
    "charge_fraud_details",
    "charge_outcome",
    "dispute",
    "dispute_enhanced_eligibility",
    "dispute_enhanced_evidence",
    "dispute_evidence",
    "dispute_evidence_details",
    "dispute_payment_method_details",
    "dispute_payment_method_details_card",
    "error",
    "event",
    "fee",
    "networks",
    "notification_event_data",
    "notification_event_request",
    "payment_flows_amount_details",
    "payment_flows_amount_details_client",
    "payment_flows_amount_details_client_resource_tip",
    "payment_flows_automatic_payment_methods_payment_intent",
    "payment_flows_private_payment_methods_card_details_api_resource_enterprise_features_extended_authorization_extended_authorization",
    "payment_flows_private_payment_methods_card_details_api_resource_enterprise_features_incremental_authorization_incremental_authorization",
    "payment_flows_private_payment_methods_card_details_api_resource_enterprise_features_overcapture_overcapture",
    "payment_flows_private_payment_methods_card_details_api_resource_multicapture",
    "payment_intent",
    "payment_intent_next_action",
    "payment_intent_next_action_redirect_to_url",
    "payment_intent_payment_method_options",
    "payment_intent_payment_method_options_card",
    "payment_method",
    "payment_method_card",
    "payment_method_card_checks",
    "payment_method_details",
    "payment_method_details_card",
    "payment_method_details_card_checks",
    "payment_method_details_card_network_token",
    "radar_radar_options",
    "refund",
    "refund_destination_details",
    "refund_destination_details_card",
    "three_d_secure_details_charge",
    "three_d_secure_usage",
}

# Request parameters that the sandbox refuses, with large schemas.
UNUSED_PARAMETERS = {
    "allowed_payment_method_types",
    "amount_details",
    "excluded_payment_method_types",
    "hooks",
    "mandate_data",
    "payment_details",
    "payment_method_data",
    "payment_method_options",
    "radar_options",
    "shipping",
    "transfer_data",
}
CARD_METHOD_PARAMETERS = {"billing_details", "card", "expand", "metadata", "type"}

NULL_ONLY = {"enum": [None], "nullable": True}
PREFIX = "#/components/schemas/"


def kept(node):
    """Whether the node is no reference, or one to a kept schema."""
    ref = node.get("$ref")
    return ref is None or ref.removeprefix(PREFIX) in SCHEMAS


def trim(node):
    """A schema without descriptions, extensions and what is not kept; None if nothing is left."""
    if isinstance(node, list):
        return [trim(item) for item in node]
    if not isinstance(node, dict):
        return node
    if not kept(node):
        return None
    result = {}
    for key, value in node.items():
        if key in ("description", "title") or key.startswith("x-"):
            continue
        if key == "properties":
            fields = {name: trim(field) for name, field in value.items()}
            result[key] = {name: field for name, field in fields.items() if field is not None}
        elif key == "anyOf":
            options = [trim(option) for option in value if kept(option)]
            if not options:
                return NULL_ONLY if node.get("nullable") else None
            result[key] = options
        else:
            trimmed = trim(value)
            result[key] = NULL_ONLY if trimmed is None else trimmed
    return result


def trim_operation(path, operation):
    """An operation without what the sandbox's requests never carry."""
    form = operation.get("requestBody", {}).get("content", {})
    for content in form.values():
        properties = content["schema"].get("properties", {})
        for name in list(properties):
            unused = name in UNUSED_PARAMETERS
            if path == "/v1/payment_methods":
                unused = name not in CARD_METHOD_PARAMETERS
            if unused:
                del properties[name]
        content.pop("encoding", None)
    kept_keys = ("operationId", "parameters", "requestBody", "responses")
    return {key: trim(operation[key]) for key in kept_keys if key in operation}


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        document = json.load(file)
    paths = {
        path: {
            method: trim_operation(path, operation)
            for method, operation in document["paths"][path].items()
            if (path, method) not in DROPPED
        }
        for path in PATHS
    }
    schemas = {
        name: trim(schema)
        for name, schema in document["components"]["schemas"].items()
        if name in SCHEMAS
    }
    trimmed = {
        "openapi": document["openapi"],
        "info": {
            "title": "Stripe API, trimmed for Roost's tests; see README.md",
            "version": document["info"]["version"],
        },
        "paths": paths,
        "components": {"schemas": schemas},
    }
    json.dump(trimmed, sys.stdout, indent=1, sort_keys=True)
    print()


if __name__ == "__main__":
    main()
