// Package embedded runs the ClickHouse engine inside this process and offers
// it as an [http.RoundTripper], so that clickhouse-go reaches it by the same
// calls, statements and column types as it reaches a server:
//
//	engine, err := embedded.Open(embedded.Config{Library: lib, Path: dir})
//	conn, err := clickhouse.Open(&clickhouse.Options{
//		Protocol:      clickhouse.HTTP,
//		Addr:          []string{embedded.Addr},
//		TransportFunc: engine.Transport,
//	})
//
// # Why
//
// A laptop and a single node want no second process to install, secure and
// watch. Keeping one dialect and one driver for one node and for a cluster
// means there is no second storage backend to keep in step.
//
// # How
//
// The engine is libchdb, a shared library with ClickHouse's whole SQL in it.
// [Locate] finds it, [Install] fetches a pinned release, and purego loads it,
// so the program still builds without cgo. A request becomes one engine call
// on one of a few connections to one data folder:
//
//   - The driver's first query is answered here, with revision 0. From then on
//     driver and engine agree on plain Native blocks and no byte needs
//     translating.
//   - An insert's statement comes in the URL and its block in the body, which
//     goes to the engine as it arrives. A body that breaks off, or a context
//     that ends, before the last byte abandons the insert: none of a block is
//     kept. An insert without any body is refused, because that is how the
//     driver sends a batch that it could not encode.
//   - A SELECT's result is fetched block by block as the body is read. Closing
//     the body or ending the context stops the statement.
//   - Settings arrive as URL parameters, as they do at a server. They are put
//     in force on the connection with SET before the statement, and taken back
//     by whichever statement uses the connection next. No SQL is rewritten.
//
// What would need a session does not exist here, as with a server's HTTP
// interface: SET and USE are refused. So are texts with more than one statement
// and whatever reads or writes files beside the data folder (INTO OUTFILE,
// FROM INFILE); the engine's own parser decides what a text is. Table functions
// and table engines that reach outside (file, url, remote, s3, …) are refused
// by the engine's access control, which knows one user here, with the rights
// that a store needs and no others.
//
// # One folder, one process
//
// The engine locks its folder. Another process gets [ErrLocked]. Within a
// process one folder can be open at a time ([ErrBusy]); once closed, the same
// or another may be opened.
//
// # What a crash means
//
// The engine has no server to outlive us: when this process dies, running
// statements die with it. An insert is answered after its part has been
// renamed into place, and on a table with fsync_after_insert and
// fsync_part_directory after it has reached the disk. A process killed before
// that leaves either no row of the block or all of them, never a few; the
// caller who saw no answer sends the block again with the same
// insert_deduplication_token. The lock ends with the process.
//
// A fault inside the engine takes this process down with it. libchdb's own
// signal handlers stay off, and Go's are put back after it has touched them.
package embedded
