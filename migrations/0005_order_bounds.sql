-- How many orders a sale may make, and how many units one order may have.

ALTER TABLE sales
    ADD COLUMN max_per_order   INT UNSIGNED    NOT NULL DEFAULT 0 COMMENT 'units in one order; 0 = no bound' AFTER limit_per_buyer,
    ADD COLUMN orders_ever_max BIGINT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'orders, whatever becomes of them; 0 = no bound' AFTER max_per_order,
    ADD COLUMN orders_ever     BIGINT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'orders of every status' AFTER returned;

UPDATE sales SET orders_ever = (SELECT COUNT(*) FROM orders WHERE orders.sale = sales.id);
