GRANT CREATE, ALTER, DROP, INDEX, REFERENCES, SELECT, INSERT, UPDATE, DELETE ON seckill.* TO 'migrate'@'%';
GRANT SELECT, INSERT, UPDATE ON seckill.* TO 'operator'@'%';
GRANT SELECT ON seckill.* TO 'api'@'%';
GRANT SELECT, INSERT, UPDATE, DELETE ON seckill.* TO 'worker'@'%';
GRANT CREATE, DELETE ON seckill.heartbeats TO 'operator'@'%';
GRANT CREATE, INSERT, UPDATE, DELETE ON seckill.heartbeats TO 'api'@'%';
