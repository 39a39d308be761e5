"""What the methods of Ruder's survey do on real data: one file for each page of results."""
