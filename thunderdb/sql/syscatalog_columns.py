"""The columns of the system views that we serve: names and types as in PostgreSQL 15.

One entry a view: `schema.view` and then `column:type`, in order. Types that we do not have are served as text (pg_node_tree,
regproc, inet, pg_lsn, aclitem) or as arrays (int2vector, oidvector). A view without rows in syscatalog_rows is empty.
"""

from __future__ import annotations

_VIEWS = """
pg_catalog.pg_class oid:oid relname:name relnamespace:oid reltype:oid reloftype:oid relowner:oid relam:oid relfilenode:oid
  reltablespace:oid relpages:int4 reltuples:float4 relallvisible:int4 reltoastrelid:oid relhasindex:bool relisshared:bool
  relpersistence:char relkind:char relnatts:int2 relchecks:int2 relhasrules:bool relhastriggers:bool relhassubclass:bool
  relrowsecurity:bool relforcerowsecurity:bool relispopulated:bool relreplident:char relispartition:bool relrewrite:oid
  relfrozenxid:text relminmxid:text relacl:text[] reloptions:text[] relpartbound:text
pg_catalog.pg_namespace oid:oid nspname:name nspowner:oid nspacl:text[]
pg_catalog.pg_attribute attrelid:oid attname:name atttypid:oid attstattarget:int4 attlen:int2 attnum:int2 attndims:int4
  attcacheoff:int4 atttypmod:int4 attbyval:bool attalign:char attstorage:char attcompression:char attnotnull:bool
  atthasdef:bool atthasmissing:bool attidentity:char attgenerated:char attisdropped:bool attislocal:bool attinhcount:int4
  attcollation:oid attacl:text[] attoptions:text[] attfdwoptions:text[] attmissingval:text
pg_catalog.pg_attrdef oid:oid adrelid:oid adnum:int2 adbin:text
pg_catalog.pg_type oid:oid typname:name typnamespace:oid typowner:oid typlen:int2 typbyval:bool typtype:char typcategory:char
  typispreferred:bool typisdefined:bool typdelim:char typrelid:oid typsubscript:text typelem:oid typarray:oid typinput:text
  typoutput:text typreceive:text typsend:text typmodin:text typmodout:text typanalyze:text typalign:char typstorage:char
  typnotnull:bool typbasetype:oid typtypmod:int4 typndims:int4 typcollation:oid typdefaultbin:text typdefault:text
  typacl:text[]
pg_catalog.pg_index indexrelid:oid indrelid:oid indnatts:int2 indnkeyatts:int2 indisunique:bool indnullsnotdistinct:bool
  indisprimary:bool indisexclusion:bool indimmediate:bool indisclustered:bool indisvalid:bool indcheckxmin:bool
  indisready:bool indislive:bool indisreplident:bool indkey:int2[] indcollation:oid[] indclass:oid[] indoption:int2[]
  indexprs:text indpred:text
pg_catalog.pg_constraint oid:oid conname:name connamespace:oid contype:char condeferrable:bool condeferred:bool
  convalidated:bool conrelid:oid contypid:oid conindid:oid conparentid:oid confrelid:oid confupdtype:char confdeltype:char
  confmatchtype:char conislocal:bool coninhcount:int4 connoinherit:bool conkey:int2[] confkey:int2[] conpfeqop:oid[]
  conppeqop:oid[] conffeqop:oid[] confdelsetcols:int2[] conexclop:oid[] conbin:text
pg_catalog.pg_database oid:oid datname:name datdba:oid encoding:int4 datlocprovider:char datistemplate:bool datallowconn:bool
  datconnlimit:int4 datfrozenxid:text datminmxid:text dattablespace:oid datcollate:text datctype:text daticulocale:text
  datcollversion:text datacl:text[]
pg_catalog.pg_roles rolname:name rolsuper:bool rolinherit:bool rolcreaterole:bool rolcreatedb:bool rolcanlogin:bool
  rolreplication:bool rolconnlimit:int4 rolpassword:text rolvaliduntil:timestamptz rolbypassrls:bool rolconfig:text[] oid:oid
pg_catalog.pg_user usename:name usesysid:oid usecreatedb:bool usesuper:bool userepl:bool usebypassrls:bool passwd:text
  valuntil:timestamptz useconfig:text[]
pg_catalog.pg_auth_members roleid:oid member:oid grantor:oid admin_option:bool
pg_catalog.pg_settings name:text setting:text unit:text category:text short_desc:text extra_desc:text context:text
  vartype:text source:text min_val:text max_val:text enumvals:text[] boot_val:text reset_val:text sourcefile:text
  sourceline:int4 pending_restart:bool
pg_catalog.pg_tables schemaname:name tablename:name tableowner:name tablespace:name hasindexes:bool hasrules:bool
  hastriggers:bool rowsecurity:bool
pg_catalog.pg_indexes schemaname:name tablename:name indexname:name tablespace:name indexdef:text
pg_catalog.pg_views schemaname:name viewname:name viewowner:name definition:text
pg_catalog.pg_matviews schemaname:name matviewname:name matviewowner:name tablespace:name hasindexes:bool ispopulated:bool
  definition:text
pg_catalog.pg_sequences schemaname:name sequencename:name sequenceowner:name data_type:oid start_value:int8 min_value:int8
  max_value:int8 increment_by:int8 cycle:bool cache_size:int8 last_value:int8
pg_catalog.pg_am oid:oid amname:name amhandler:text amtype:char
pg_catalog.pg_proc oid:oid proname:name pronamespace:oid proowner:oid prolang:oid procost:float4 prorows:float4
  provariadic:oid prosupport:text prokind:char prosecdef:bool proleakproof:bool proisstrict:bool proretset:bool
  provolatile:char proparallel:char pronargs:int2 pronargdefaults:int2 prorettype:oid proargtypes:oid[] proallargtypes:oid[]
  proargmodes:char[] proargnames:text[] proargdefaults:text protrftypes:oid[] prosrc:text probin:text prosqlbody:text
  proconfig:text[] proacl:text[]
pg_catalog.pg_description objoid:oid classoid:oid objsubid:int4 description:text
pg_catalog.pg_shdescription objoid:oid classoid:oid description:text
pg_catalog.pg_inherits inhrelid:oid inhparent:oid inhseqno:int4 inhdetachpending:bool
pg_catalog.pg_partitioned_table partrelid:oid partstrat:char partnatts:int2 partdefid:oid partattrs:int2[] partclass:oid[]
  partcollation:oid[] partexprs:text
pg_catalog.pg_stat_activity datid:oid datname:name pid:int4 leader_pid:int4 usesysid:oid usename:name application_name:text
  client_addr:text client_hostname:text client_port:int4 backend_start:timestamptz xact_start:timestamptz
  query_start:timestamptz state_change:timestamptz wait_event_type:text wait_event:text state:text backend_xid:text
  backend_xmin:text query_id:int8 query:text backend_type:text
pg_catalog.pg_collation oid:oid collname:name collnamespace:oid collowner:oid collprovider:char collisdeterministic:bool
  collencoding:int4 collcollate:text collctype:text colliculocale:text collversion:text
pg_catalog.pg_policy oid:oid polname:name polrelid:oid polcmd:char polpermissive:bool polroles:oid[] polqual:text
  polwithcheck:text
pg_catalog.pg_statistic_ext oid:oid stxrelid:oid stxname:name stxnamespace:oid stxowner:oid stxstattarget:int4 stxkeys:int2[]
  stxkind:char[] stxexprs:text
pg_catalog.pg_publication oid:oid pubname:name pubowner:oid puballtables:bool pubinsert:bool pubupdate:bool pubdelete:bool
  pubtruncate:bool pubviaroot:bool
pg_catalog.pg_publication_namespace oid:oid pnpubid:oid pnnspid:oid
pg_catalog.pg_publication_rel oid:oid prpubid:oid prrelid:oid prqual:text prattrs:int2[]
pg_catalog.pg_sequence seqrelid:oid seqtypid:oid seqstart:int8 seqincrement:int8 seqmax:int8 seqmin:int8 seqcache:int8
  seqcycle:bool
pg_catalog.pg_depend classid:oid objid:oid objsubid:int4 refclassid:oid refobjid:oid refobjsubid:int4 deptype:char
pg_catalog.pg_extension oid:oid extname:name extowner:oid extnamespace:oid extrelocatable:bool extversion:text extconfig:oid[]
  extcondition:text[]
pg_catalog.pg_tablespace oid:oid spcname:name spcowner:oid spcacl:text[] spcoptions:text[]
pg_catalog.pg_trigger oid:oid tgrelid:oid tgparentid:oid tgname:name tgfoid:oid tgtype:int2 tgenabled:char tgisinternal:bool
  tgconstrrelid:oid tgconstrindid:oid tgconstraint:oid tgdeferrable:bool tginitdeferred:bool tgnargs:int2 tgattr:int2[]
  tgargs:bytea tgqual:text tgoldtable:name tgnewtable:name
pg_catalog.pg_rewrite oid:oid rulename:name ev_class:oid ev_type:char ev_enabled:char is_instead:bool ev_qual:text
  ev_action:text
pg_catalog.pg_enum oid:oid enumtypid:oid enumsortorder:float4 enumlabel:name
pg_catalog.pg_range rngtypid:oid rngsubtype:oid rngmultitypid:oid rngcollation:oid rngsubopc:oid rngcanonical:text
  rngsubdiff:text
pg_catalog.pg_opclass oid:oid opcmethod:oid opcname:name opcnamespace:oid opcowner:oid opcfamily:oid opcintype:oid
  opcdefault:bool opckeytype:oid
pg_catalog.pg_operator oid:oid oprname:name oprnamespace:oid oprowner:oid oprkind:char oprcanmerge:bool oprcanhash:bool
  oprleft:oid oprright:oid oprresult:oid oprcom:oid oprnegate:oid oprcode:text oprrest:text oprjoin:text
pg_catalog.pg_language oid:oid lanname:name lanowner:oid lanispl:bool lanpltrusted:bool lanplcallfoid:oid laninline:oid
  lanvalidator:oid lanacl:text[]
pg_catalog.pg_foreign_table ftrelid:oid ftserver:oid ftoptions:text[]
pg_catalog.pg_foreign_server oid:oid srvname:name srvowner:oid srvfdw:oid srvtype:text srvversion:text srvacl:text[]
  srvoptions:text[]
pg_catalog.pg_stat_user_tables relid:oid schemaname:name relname:name seq_scan:int8 seq_tup_read:int8 idx_scan:int8
  idx_tup_fetch:int8 n_tup_ins:int8 n_tup_upd:int8 n_tup_del:int8 n_tup_hot_upd:int8 n_live_tup:int8 n_dead_tup:int8
  n_mod_since_analyze:int8 n_ins_since_vacuum:int8 last_vacuum:timestamptz last_autovacuum:timestamptz
  last_analyze:timestamptz last_autoanalyze:timestamptz vacuum_count:int8 autovacuum_count:int8 analyze_count:int8
  autoanalyze_count:int8
pg_catalog.pg_stat_database datid:oid datname:name numbackends:int4 xact_commit:int8 xact_rollback:int8 blks_read:int8
  blks_hit:int8 tup_returned:int8 tup_fetched:int8 tup_inserted:int8 tup_updated:int8 tup_deleted:int8 conflicts:int8
  temp_files:int8 temp_bytes:int8 deadlocks:int8 checksum_failures:int8 checksum_last_failure:timestamptz blk_read_time:float8
  blk_write_time:float8 session_time:float8 active_time:float8 idle_in_transaction_time:float8 sessions:int8
  sessions_abandoned:int8 sessions_fatal:int8 sessions_killed:int8 stats_reset:timestamptz
pg_catalog.pg_locks locktype:text database:oid relation:oid page:int4 tuple:int2 virtualxid:text transactionid:text
  classid:oid objid:oid objsubid:int2 virtualtransaction:text pid:int4 mode:text granted:bool fastpath:bool
  waitstart:timestamptz
pg_catalog.pg_prepared_statements name:text statement:text prepare_time:timestamptz parameter_types:oid[] from_sql:bool
  generic_plans:int8 custom_plans:int8
pg_catalog.pg_cursors name:text statement:text is_holdable:bool is_binary:bool is_scrollable:bool creation_time:timestamptz
pg_catalog.pg_event_trigger oid:oid evtname:name evtevent:name evtowner:oid evtfoid:oid evtenabled:char evttags:text[]
pg_catalog.pg_cast oid:oid castsource:oid casttarget:oid castfunc:oid castcontext:char castmethod:char
pg_catalog.pg_aggregate aggfnoid:text aggkind:char aggnumdirectargs:int2 aggtransfn:text aggfinalfn:text aggcombinefn:text
  aggserialfn:text aggdeserialfn:text aggmtransfn:text aggminvtransfn:text aggmfinalfn:text aggfinalextra:bool
  aggmfinalextra:bool aggfinalmodify:char aggmfinalmodify:char aggsortop:oid aggtranstype:oid aggtransspace:int4
  aggmtranstype:oid aggmtransspace:int4 agginitval:text aggminitval:text
pg_catalog.pg_default_acl oid:oid defaclrole:oid defaclnamespace:oid defaclobjtype:char defaclacl:text[]
pg_catalog.pg_shdepend dbid:oid classid:oid objid:oid objsubid:int4 refclassid:oid refobjid:oid deptype:char
pg_catalog.pg_conversion oid:oid conname:name connamespace:oid conowner:oid conforencoding:int4 contoencoding:int4
  conproc:text condefault:bool
pg_catalog.pg_timezone_names name:text abbrev:text utc_offset:interval is_dst:bool
pg_catalog.pg_subscription oid:oid subdbid:oid subskiplsn:text subname:name subowner:oid subenabled:bool subbinary:bool
  substream:bool subtwophasestate:char subdisableonerr:bool subconninfo:text subslotname:name subsynccommit:text
  subpublications:text[]
pg_catalog.pg_largeobject_metadata oid:oid lomowner:oid lomacl:text[]
pg_catalog.pg_stat_replication pid:int4 usesysid:oid usename:name application_name:text client_addr:text client_hostname:text
  client_port:int4 backend_start:timestamptz backend_xmin:text state:text sent_lsn:text write_lsn:text flush_lsn:text
  replay_lsn:text write_lag:interval flush_lag:interval replay_lag:interval sync_priority:int4 sync_state:text
  reply_time:timestamptz
pg_catalog.pg_available_extensions name:name default_version:text installed_version:text comment:text
pg_catalog.pg_db_role_setting setdatabase:oid setrole:oid setconfig:text[]
information_schema.tables table_catalog:name table_schema:name table_name:name table_type:text
  self_referencing_column_name:name reference_generation:text user_defined_type_catalog:name user_defined_type_schema:name
  user_defined_type_name:name is_insertable_into:text is_typed:text commit_action:text
information_schema.columns table_catalog:name table_schema:name table_name:name column_name:name ordinal_position:int4
  column_default:text is_nullable:text data_type:text character_maximum_length:int4 character_octet_length:int4
  numeric_precision:int4 numeric_precision_radix:int4 numeric_scale:int4 datetime_precision:int4 interval_type:text
  interval_precision:int4 character_set_catalog:name character_set_schema:name character_set_name:name collation_catalog:name
  collation_schema:name collation_name:name domain_catalog:name domain_schema:name domain_name:name udt_catalog:name
  udt_schema:name udt_name:name scope_catalog:name scope_schema:name scope_name:name maximum_cardinality:int4
  dtd_identifier:name is_self_referencing:text is_identity:text identity_generation:text identity_start:text
  identity_increment:text identity_maximum:text identity_minimum:text identity_cycle:text is_generated:text
  generation_expression:text is_updatable:text
information_schema.schemata catalog_name:name schema_name:name schema_owner:name default_character_set_catalog:name
  default_character_set_schema:name default_character_set_name:name sql_path:text
information_schema.key_column_usage constraint_catalog:name constraint_schema:name constraint_name:name table_catalog:name
  table_schema:name table_name:name column_name:name ordinal_position:int4 position_in_unique_constraint:int4
information_schema.table_constraints constraint_catalog:name constraint_schema:name constraint_name:name table_catalog:name
  table_schema:name table_name:name constraint_type:text is_deferrable:text initially_deferred:text enforced:text
  nulls_distinct:text
information_schema.referential_constraints constraint_catalog:name constraint_schema:name constraint_name:name
  unique_constraint_catalog:name unique_constraint_schema:name unique_constraint_name:name match_option:text update_rule:text
  delete_rule:text
information_schema.constraint_column_usage table_catalog:name table_schema:name table_name:name column_name:name
  constraint_catalog:name constraint_schema:name constraint_name:name
information_schema.sequences sequence_catalog:name sequence_schema:name sequence_name:name data_type:text
  numeric_precision:int4 numeric_precision_radix:int4 numeric_scale:int4 start_value:text minimum_value:text
  maximum_value:text increment:text cycle_option:text
information_schema.views table_catalog:name table_schema:name table_name:name view_definition:text check_option:text
  is_updatable:text is_insertable_into:text is_trigger_updatable:text is_trigger_deletable:text
  is_trigger_insertable_into:text
information_schema.routines specific_catalog:name specific_schema:name specific_name:name routine_catalog:name
  routine_schema:name routine_name:name routine_type:text module_catalog:name module_schema:name module_name:name
  udt_catalog:name udt_schema:name udt_name:name data_type:text character_maximum_length:int4 character_octet_length:int4
  character_set_catalog:name character_set_schema:name character_set_name:name collation_catalog:name collation_schema:name
  collation_name:name numeric_precision:int4 numeric_precision_radix:int4 numeric_scale:int4 datetime_precision:int4
  interval_type:text interval_precision:int4 type_udt_catalog:name type_udt_schema:name type_udt_name:name scope_catalog:name
  scope_schema:name scope_name:name maximum_cardinality:int4 dtd_identifier:name routine_body:text routine_definition:text
  external_name:text external_language:text parameter_style:text is_deterministic:text sql_data_access:text is_null_call:text
  sql_path:text schema_level_routine:text max_dynamic_result_sets:int4 is_user_defined_cast:text is_implicitly_invocable:text
  security_type:text to_sql_specific_catalog:name to_sql_specific_schema:name to_sql_specific_name:name as_locator:text
  created:timestamptz last_altered:timestamptz new_savepoint_level:text is_udt_dependent:text result_cast_from_data_type:text
  result_cast_as_locator:text result_cast_char_max_length:int4 result_cast_char_octet_length:int4
  result_cast_char_set_catalog:name result_cast_char_set_schema:name result_cast_char_set_name:name
  result_cast_collation_catalog:name result_cast_collation_schema:name result_cast_collation_name:name
  result_cast_numeric_precision:int4 result_cast_numeric_precision_radix:int4 result_cast_numeric_scale:int4
  result_cast_datetime_precision:int4 result_cast_interval_type:text result_cast_interval_precision:int4
  result_cast_type_udt_catalog:name result_cast_type_udt_schema:name result_cast_type_udt_name:name
  result_cast_scope_catalog:name result_cast_scope_schema:name result_cast_scope_name:name
  result_cast_maximum_cardinality:int4 result_cast_dtd_identifier:name
information_schema.check_constraints constraint_catalog:name constraint_schema:name constraint_name:name check_clause:text
information_schema.character_sets character_set_catalog:name character_set_schema:name character_set_name:name
  character_repertoire:name form_of_use:name default_collate_catalog:name default_collate_schema:name
  default_collate_name:name
information_schema.enabled_roles role_name:name
pg_catalog.pg_opfamily oid:oid opfmethod:oid opfname:name opfnamespace:oid opfowner:oid
pg_catalog.pg_amop oid:oid amopfamily:oid amoplefttype:oid amoprighttype:oid amopstrategy:int2 amoppurpose:char amopopr:oid
  amopmethod:oid amopsortfamily:oid
pg_catalog.pg_amproc oid:oid amprocfamily:oid amproclefttype:oid amprocrighttype:oid amprocnum:int2 amproc:text
pg_catalog.pg_foreign_data_wrapper oid:oid fdwname:name fdwowner:oid fdwhandler:oid fdwvalidator:oid fdwacl:text[]
  fdwoptions:text[]
pg_catalog.pg_user_mappings umid:oid srvid:oid srvname:name umuser:oid usename:name umoptions:text[]
pg_catalog.pg_ts_config oid:oid cfgname:name cfgnamespace:oid cfgowner:oid cfgparser:oid
pg_catalog.pg_ts_config_map mapcfg:oid maptokentype:int4 mapseqno:int4 mapdict:oid
pg_catalog.pg_ts_dict oid:oid dictname:name dictnamespace:oid dictowner:oid dicttemplate:oid dictinitoption:text
pg_catalog.pg_ts_parser oid:oid prsname:name prsnamespace:oid prsstart:text prstoken:text prsend:text prsheadline:text
  prslextype:text
pg_catalog.pg_ts_template oid:oid tmplname:name tmplnamespace:oid tmplinit:text tmpllexize:text
"""


def _parse(text: str) -> dict[str, tuple[tuple[str, str], ...]]:
    views: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] = []
    for line in text.strip().splitlines():
        words = line.split()
        if not line.startswith(" "):
            current = views[words.pop(0)] = []
        for word in words:
            name, _, kind = word.partition(":")
            current.append((name, kind))
    return {name: tuple(columns) for name, columns in views.items()}


VIEWS = _parse(_VIEWS)
