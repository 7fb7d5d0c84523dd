"""Deployments of an attribution-graph application: GraphPipeline -> Tracer -> Attributor -> Publisher."""
