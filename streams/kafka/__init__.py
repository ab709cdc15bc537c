"""Everything about Kafka itself: connections, topics, rights, message headers.

- connection, patient_connections, connection_problems: clients from the settings, and why no broker answers
- aiokafka_internals: everything used of aiokafka beyond its public API
- settings: section kafka of the settings tree, for every client
- topics, topic_admin, topic_reader: names and problems, creation and checks of topics and rights, whole reads
- group_refusals, broker_requests, broker_watch: what a broker refuses and says about itself
- cloudevents, header_names: the headers of a record

Knows nothing of requests under way; clients, workers and commands build on it.
"""
