BEGIN TRANSACTION;
CREATE TABLE ledger (
        "id" TEXT NOT NULL PRIMARY KEY, "at" DOUBLE PRECISION NOT NULL,
        "protocol" TEXT NOT NULL, "path" TEXT NOT NULL, "model" TEXT NOT NULL,
        "mode_asked" TEXT NOT NULL, "mode_used" TEXT NOT NULL, "engine" TEXT NOT NULL,
        "streamed" BOOLEAN NOT NULL, "status" BIGINT NOT NULL, "outcome" TEXT NOT NULL,
        "tokens_received" BIGINT NOT NULL, "tokens_sent" BIGINT NOT NULL, "tokens_estimated" BOOLEAN NOT NULL,
        "would_send" BIGINT, "billed_input" BIGINT, "billed_output" BIGINT, "billed_reasoning" BIGINT,
        "billed_cache_read" BIGINT, "billed_cache_write" BIGINT,
        "compressor_seconds" DOUBLE PRECISION NOT NULL, "compressor_tokens" BIGINT NOT NULL,
        "gpu_seconds" DOUBLE PRECISION NOT NULL, "fetched_back_tokens" BIGINT NOT NULL,
        "price_input" DOUBLE PRECISION, "price_output" DOUBLE PRECISION,
        "price_cache_read" DOUBLE PRECISION, "price_cache_write" DOUBLE PRECISION,
        "cost" DOUBLE PRECISION, "saved_tokens" BIGINT NOT NULL, "saved_cost" DOUBLE PRECISION,
        "latency_ms" DOUBLE PRECISION NOT NULL, "overhead_ms" DOUBLE PRECISION NOT NULL,
        "skipped" TEXT NOT NULL, "passages" TEXT NOT NULL,
        "session" TEXT NOT NULL, "user" TEXT NOT NULL, "project" TEXT NOT NULL, "tags" TEXT NOT NULL
    , "key" TEXT NOT NULL DEFAULT '', "shadow_of" TEXT NOT NULL DEFAULT '', "agreement" TEXT NOT NULL DEFAULT '{}', "billed_cache_write_hour" BIGINT, "price_cache_write_hour" DOUBLE PRECISION, "without_input" BIGINT, "without_output" BIGINT, "without_cache_read" BIGINT, "without_cache_write" BIGINT, "cost_without" DOUBLE PRECISION);
INSERT INTO "ledger" VALUES('req_1',86400.0,'chat','/v1/chat/completions','gpt-4o','auto','extract','log',0,200,'ok',130,100,0,NULL,100,10,4,60,20,0.0,0,0.0,7,2.0e-06,8.0e-06,5.0e-07,3.0e-06,2.09999999999999981603e-04,30,1.50000000000000122384e-05,80.5,2.5,'{}','[{"kind":"log","tool":"bash","before":130,"after":100,"reason":""}]','s','u','p','{"team":"a"}','k','','{}',NULL,NULL,130,10,90,20,0.000225);
INSERT INTO "ledger" VALUES('req_2',90000.0,'messages','/v1/messages','unpriced','observe','observe','',1,200,'ok',50,50,1,20,NULL,NULL,NULL,NULL,NULL,0.0,0,0.0,0,NULL,NULL,NULL,NULL,NULL,0,NULL,0.0,0.0,'{"short":1}','[]','','','','{}','','','{}',NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "ledger" VALUES('req_3',180000.0,'chat','/v1/chat/completions','gpt-4o','auto','extract','log',0,200,'ok',130,100,0,NULL,130,10,NULL,NULL,NULL,0.0,0,0.0,7,2.0e-06,8.0e-06,5.0e-07,3.0e-06,3.39999999999999970214e-04,30,-3.39999999999999970214e-04,80.5,2.5,'{}','[{"kind":"log","tool":"bash","before":130,"after":100,"reason":""}]','s','u','p','{"team":"a"}','k','req_1','{"tools":1.0}',NULL,NULL,0,0,NULL,NULL,0.0);
CREATE TABLE ledger_daily (
        "by" TEXT NOT NULL, "day" BIGINT NOT NULL, "group" TEXT NOT NULL,
        "requests" BIGINT, "failures" BIGINT, "received" BIGINT, "sent" BIGINT, "saved" BIGINT, "would_save" BIGINT,
        "fetched_back" BIGINT, "billed_input" BIGINT, "billed_output" BIGINT, "reasoning" BIGINT,
        "cache_read" BIGINT, "cache_write" BIGINT, "cost" DOUBLE PRECISION, "saved_cost" DOUBLE PRECISION,
        "unpriced" BIGINT, "unpriced_savings" BIGINT, "estimated" BIGINT, "compressor_tokens" BIGINT,
        "compressor_seconds" DOUBLE PRECISION, "gpu_seconds" DOUBLE PRECISION,
        "latency_ms" DOUBLE PRECISION, "overhead_ms" DOUBLE PRECISION, "shadows" BIGINT, "cost_without" DOUBLE PRECISION, "drift_sent" BIGINT, "drift_billed" BIGINT, "drift_sent_estimated" BIGINT, "drift_billed_estimated" BIGINT,
        PRIMARY KEY ("by", "day", "group")
    );
INSERT INTO "ledger_daily" VALUES('kind',1,'log',1,NULL,130,100,30,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "ledger_daily" VALUES('tool',1,'bash',1,NULL,130,100,30,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "ledger_daily" VALUES('tag',1,'team=a',1,0,130,100,30,0,7,100,10,4,60,20,2.09999999999999981603e-04,1.50000000000000122384e-05,0,0,0,0,0.0,0.0,80.5,2.5,0,0.000225,100,100,0,0);
INSERT INTO "ledger_daily" VALUES('tag',2,'team=a',0,0,0,0,0,0,7,130,10,NULL,NULL,NULL,3.39999999999999970214e-04,-3.39999999999999970214e-04,0,0,0,0,0.0,0.0,0.0,0.0,1,0.0,100,130,0,0);
INSERT INTO "ledger_daily" VALUES('all',1,'all',2,0,180,150,30,30,7,100,10,4,60,20,2.09999999999999981603e-04,1.50000000000000122384e-05,1,1,1,0,0.0,0.0,80.5,2.5,0,0.000225,100,100,0,0);
INSERT INTO "ledger_daily" VALUES('all',2,'all',0,0,0,0,0,0,7,130,10,NULL,NULL,NULL,3.39999999999999970214e-04,-3.39999999999999970214e-04,0,0,0,0,0.0,0.0,0.0,0.0,1,0.0,100,130,0,0);
INSERT INTO "ledger_daily" VALUES('key',1,'',1,0,50,50,0,30,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,1,1,1,0,0.0,0.0,0.0,0.0,0,NULL,0,0,0,0);
INSERT INTO "ledger_daily" VALUES('key',1,'k',1,0,130,100,30,0,7,100,10,4,60,20,2.09999999999999981603e-04,1.50000000000000122384e-05,0,0,0,0,0.0,0.0,80.5,2.5,0,0.000225,100,100,0,0);
INSERT INTO "ledger_daily" VALUES('key',2,'k',0,0,0,0,0,0,7,130,10,NULL,NULL,NULL,3.39999999999999970214e-04,-3.39999999999999970214e-04,0,0,0,0,0.0,0.0,0.0,0.0,1,0.0,100,130,0,0);
INSERT INTO "ledger_daily" VALUES('mode',1,'extract',1,0,130,100,30,0,7,100,10,4,60,20,2.09999999999999981603e-04,1.50000000000000122384e-05,0,0,0,0,0.0,0.0,80.5,2.5,0,0.000225,100,100,0,0);
INSERT INTO "ledger_daily" VALUES('mode',1,'observe',1,0,50,50,0,30,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,1,1,1,0,0.0,0.0,0.0,0.0,0,NULL,0,0,0,0);
INSERT INTO "ledger_daily" VALUES('mode',2,'extract',0,0,0,0,0,0,7,130,10,NULL,NULL,NULL,3.39999999999999970214e-04,-3.39999999999999970214e-04,0,0,0,0,0.0,0.0,0.0,0.0,1,0.0,100,130,0,0);
INSERT INTO "ledger_daily" VALUES('model',1,'gpt-4o',1,0,130,100,30,0,7,100,10,4,60,20,2.09999999999999981603e-04,1.50000000000000122384e-05,0,0,0,0,0.0,0.0,80.5,2.5,0,0.000225,100,100,0,0);
INSERT INTO "ledger_daily" VALUES('model',1,'unpriced',1,0,50,50,0,30,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,1,1,1,0,0.0,0.0,0.0,0.0,0,NULL,0,0,0,0);
INSERT INTO "ledger_daily" VALUES('model',2,'gpt-4o',0,0,0,0,0,0,7,130,10,NULL,NULL,NULL,3.39999999999999970214e-04,-3.39999999999999970214e-04,0,0,0,0,0.0,0.0,0.0,0.0,1,0.0,100,130,0,0);
INSERT INTO "ledger_daily" VALUES('outcome',1,'ok',2,0,180,150,30,30,7,100,10,4,60,20,2.09999999999999981603e-04,1.50000000000000122384e-05,1,1,1,0,0.0,0.0,80.5,2.5,0,0.000225,100,100,0,0);
INSERT INTO "ledger_daily" VALUES('outcome',2,'ok',0,0,0,0,0,0,7,130,10,NULL,NULL,NULL,3.39999999999999970214e-04,-3.39999999999999970214e-04,0,0,0,0,0.0,0.0,0.0,0.0,1,0.0,100,130,0,0);
INSERT INTO "ledger_daily" VALUES('project',1,'',1,0,50,50,0,30,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,1,1,1,0,0.0,0.0,0.0,0.0,0,NULL,0,0,0,0);
INSERT INTO "ledger_daily" VALUES('project',1,'p',1,0,130,100,30,0,7,100,10,4,60,20,2.09999999999999981603e-04,1.50000000000000122384e-05,0,0,0,0,0.0,0.0,80.5,2.5,0,0.000225,100,100,0,0);
INSERT INTO "ledger_daily" VALUES('project',2,'p',0,0,0,0,0,0,7,130,10,NULL,NULL,NULL,3.39999999999999970214e-04,-3.39999999999999970214e-04,0,0,0,0,0.0,0.0,0.0,0.0,1,0.0,100,130,0,0);
INSERT INTO "ledger_daily" VALUES('protocol',1,'chat',1,0,130,100,30,0,7,100,10,4,60,20,2.09999999999999981603e-04,1.50000000000000122384e-05,0,0,0,0,0.0,0.0,80.5,2.5,0,0.000225,100,100,0,0);
INSERT INTO "ledger_daily" VALUES('protocol',1,'messages',1,0,50,50,0,30,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,1,1,1,0,0.0,0.0,0.0,0.0,0,NULL,0,0,0,0);
INSERT INTO "ledger_daily" VALUES('protocol',2,'chat',0,0,0,0,0,0,7,130,10,NULL,NULL,NULL,3.39999999999999970214e-04,-3.39999999999999970214e-04,0,0,0,0,0.0,0.0,0.0,0.0,1,0.0,100,130,0,0);
INSERT INTO "ledger_daily" VALUES('user',1,'',1,0,50,50,0,30,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,1,1,1,0,0.0,0.0,0.0,0.0,0,NULL,0,0,0,0);
INSERT INTO "ledger_daily" VALUES('user',1,'u',1,0,130,100,30,0,7,100,10,4,60,20,2.09999999999999981603e-04,1.50000000000000122384e-05,0,0,0,0,0.0,0.0,80.5,2.5,0,0.000225,100,100,0,0);
INSERT INTO "ledger_daily" VALUES('user',2,'u',0,0,0,0,0,0,7,130,10,NULL,NULL,NULL,3.39999999999999970214e-04,-3.39999999999999970214e-04,0,0,0,0,0.0,0.0,0.0,0.0,1,0.0,100,130,0,0);
CREATE TABLE ledger_runs (
        "run" TEXT NOT NULL PRIMARY KEY, "settled" BIGINT NOT NULL, "lost" BIGINT NOT NULL, "killed" BIGINT NOT NULL
    );
CREATE TABLE ledger_version (only_one BIGINT PRIMARY KEY, step BIGINT NOT NULL);
INSERT INTO "ledger_version" VALUES(1,22);
CREATE TABLE proxy_keys (
        "id" TEXT NOT NULL PRIMARY KEY, "name" TEXT NOT NULL, "hash" TEXT NOT NULL, "project" TEXT NOT NULL,
        "admin" BOOLEAN NOT NULL, "created" DOUBLE PRECISION NOT NULL, "expires" DOUBLE PRECISION,
        "revoked" DOUBLE PRECISION, "tokens_per_day" BIGINT, "dollars_per_day" DOUBLE PRECISION,
        "requests_per_minute" BIGINT
    );
INSERT INTO "proxy_keys" VALUES('980ecc42','alice','2b9f0381805877e6b2131d15d51f712c9eaad4a1d0857dea5bc8cb1e10b3aa30','',0,1.0,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE proxy_keys_version (only_one BIGINT PRIMARY KEY, step BIGINT NOT NULL, changes BIGINT NOT NULL);
INSERT INTO "proxy_keys_version" VALUES(1,2,1);
CREATE INDEX ledger_at ON ledger ("at");
CREATE UNIQUE INDEX proxy_keys_name ON proxy_keys ("name") WHERE "revoked" IS NULL;
COMMIT;
