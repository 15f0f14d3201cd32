-- The users of compose.yaml. Their rights are those of grants.sql.
CREATE USER 'migrate'@'%' IDENTIFIED BY 'migrate';
CREATE USER 'operator'@'%' IDENTIFIED BY 'operator';
CREATE USER 'api'@'%' IDENTIFIED BY 'api';
CREATE USER 'worker'@'%' IDENTIFIED BY 'worker';
